package nvidia

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/mps"
	"aliquot.example/internal/share"
)

// gpus has the calls of NVML that supervisors need. No container can deceive NVML.
type gpus interface {
	// mpsClients lists the processes that use a GPU through MPS.
	mpsClients(gpu.ID) ([]int, error)
	// exclusive sets a shared GPU's compute mode, and returns the processes on the GPU that are
	// neither these servers nor their clients.
	exclusive(id gpu.ID, servers []int) (occupants, error)
	// restoreShared restores the compute mode when the GPU is no longer shared.
	restoreShared(gpu.ID) error
}

// daemons runs one MPS daemon for each shared GPU, and stops those of GPUs that are no longer shared.
// After a restart it finds running daemons through its directory.
type daemons struct {
	dir     string
	program string
	options []string
	// shmSize limits a GPU's own shared memory; "" means that daemons and tasks use the host's.
	shmSize string
	host    plugin.Host
	nvml    gpus

	mu          sync.Mutex
	supervisors map[gpu.ID]*supervisor
	scanned     bool
}

func newDaemons(runDir, program string, options []string, host plugin.Host, nvml gpus) *daemons {
	return &daemons{dir: filepath.Join(runDir, "mps"), program: program, options: options, host: host, nvml: nvml,
		supervisors: map[gpu.ID]*supervisor{}}
}

// pipe is the pipe directory of a GPU's daemon.
func (d *daemons) pipe(id gpu.ID) string { return filepath.Join(d.dir, string(id), "pipe") }

// shm is where a GPU's own shared memory is mounted, or "" for the host's. The task driver looks for
// it beside the pipe directory.
func (d *daemons) shm(id gpu.ID) string {
	if d.shmSize == "" {
		return ""
	}
	return filepath.Join(d.dir, string(id), "shm")
}

func (d *daemons) control(id gpu.ID) mps.Control {
	dir := filepath.Join(d.dir, string(id))
	return mps.Control{Program: d.program, Pipe: d.pipe(id), Log: filepath.Join(dir, "log"),
		Record: filepath.Join(dir, "daemon.json"), Shm: d.shm(id), ShmSize: d.shmSize}
}

// converge sets for every supervisor whether its daemon is wanted, and returns the supervisors' current
// reports without waiting for them.
func (d *daemons) converge(plan share.Plan) map[gpu.ID]condition {
	d.mu.Lock()
	defer d.mu.Unlock()
	wanted := map[gpu.ID]bool{}
	for _, o := range plan.Offers {
		if o.Sharing == gpu.SharingMPS {
			wanted[o.ID] = true
		}
	}
	d.scan(wanted)
	out := map[gpu.ID]condition{}
	for id, s := range d.supervisors {
		c, over := s.want(wanted[id])
		if over {
			delete(d.supervisors, id)
			continue
		}
		out[id] = c
	}
	for id := range wanted {
		if d.supervisors[id] == nil {
			out[id] = d.supervise(id, true)
		}
	}
	return out
}

// foreign returns a warning about MPS control daemons that this plugin has not started, "" if there
// are none. A foreign daemon without a server holds no GPU, so no GPU is withdrawn. But its clients
// would use a shared GPU without the tasks' limits, or fail.
func (d *daemons) foreign() string {
	var out []string
	for pid, pipe := range mps.Daemons() {
		if !strings.HasPrefix(pipe, d.dir+"/") {
			out = append(out, fmt.Sprintf("PID %d at %s", pid, pipe))
		}
	}
	if len(out) == 0 {
		return ""
	}
	slices.Sort(out)
	return "other MPS control daemons run on this host (" + strings.Join(out, ", ") +
		"): their clients bypass the limits of shared GPUs; send them quit"
}

// supervise starts a supervisor and returns its first report.
func (d *daemons) supervise(id gpu.ID, wanted bool) condition {
	first := condition{problem: "MPS daemon is starting", starting: true}
	s := &supervisor{
		id: id, control: d.control(id), options: d.options, host: d.host,
		wake: make(chan struct{}, 1), starting: d.starting, state: first, wanted: wanted,
		nvml: d.nvml,
	}
	d.supervisors[id] = s
	go s.run(context.Background())
	return first
}

// restarts returns how many times, since the plugin started, a GPU's daemon was replaced because it
// had ended or hung. ok is false if the GPU has no daemon.
func (d *daemons) restarts(id gpu.ID) (n int, ok bool) {
	d.mu.Lock()
	s := d.supervisors[id]
	d.mu.Unlock()
	if s == nil {
		return 0, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.restarts, true
}

// starting reports whether any daemon is still starting.
func (d *daemons) starting() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.supervisors {
		s.mu.Lock()
		starting := s.state.starting
		s.mu.Unlock()
		if starting {
			return true
		}
	}
	return false
}

// scan finds, once, the daemons that an earlier process of the plugin left running. It gives their
// supervisors the wanted state at once, because a supervisor stops an unwanted daemon without clients.
func (d *daemons) scan(wanted map[gpu.ID]bool) {
	if d.scanned {
		return
	}
	d.scanned = true
	entries, err := os.ReadDir(d.dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		id := gpu.ID(e.Name())
		_, err := os.Stat(d.modeFile(id))
		if e.IsDir() && (err == nil || d.control(id).Process() != 0) {
			d.supervise(id, wanted[id])
		}
	}
}

// ready waits until the daemon of a GPU accepts clients.
func (d *daemons) ready(ctx context.Context, id gpu.ID) error {
	for {
		err := d.serves(ctx, id)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(readyPoll):
		}
	}
}

func (d *daemons) serves(ctx context.Context, id gpu.ID) error {
	control := d.control(id)
	servers, err := control.Servers(ctx)
	if err != nil {
		return err
	}
	active := false
	for _, server := range servers {
		switch status, _ := control.Status(ctx, server); status {
		case mps.Active:
			active = true
		case mps.Fault:
			return errors.New("its MPS server is in FAULT")
		}
	}
	if !active {
		return errors.New("its MPS server is not ACTIVE")
	}
	return nil
}

// readyPoll is the interval at which a reservation checks a daemon that is starting.
const readyPoll = 100 * time.Millisecond
