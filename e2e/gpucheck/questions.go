package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/e2e/conformance"
	"aliquot.example/internal/mps"
)

// question is a question that only a real GPU and a real MPS can answer: what the plugin and the
// rack assume, and what this machine shows.
type question struct{ asked, expected, seen string }

// testbed is the setup on which the questions are tried: one shared GPU.
type testbed struct {
	plugin  *conformance.Running
	program string // the CUDA client
	// binary is the device plugin's program; root is the directory in which it finds NVML.
	binary, root string
	ids          []string
	uuid         string
	control      mps.Control
	// logTime is how long to measure the growth of the log.
	logTime time.Duration
}

// ask tries all questions, those that stop the daemon last.
func (l testbed) ask(ctx context.Context) []question {
	var out []question
	for _, q := range []struct {
		asked, expected string
		see             func(context.Context) (string, error)
	}{
		{"is a server ACTIVE before the first client?", "ACTIVE", l.server},
		{"which compute mode has a shared GPU?", "Exclusive_Process", l.computeMode},
		{"what becomes of a program that misses MPS?", "it fails", l.past},
		{"is CUDA_VISIBLE_DEVICES=0 the GPU under MPS?", "1 device, an MPS client", l.ordinal},
		{"is a client with another /dev/shm served?", "not over MPS", l.otherShm},
		{"what does a context take of the memory limit?", "nothing: all of it can be allocated", l.overhead},
		{"does a memory limit hold an MPS client's control group?", "it holds, from driver 615 on", l.groupLimit},
		{"is the use of each client known?", "of each, above 0%", l.busy},
		{"how fast does control.log grow?", "tens of MB a day at most", l.growth},
		{"may another user than root ask and quit?", "not known: the plugin replaces a daemon that quits", l.otherUser},
		{"what does a daemon do that waits in quit?", "quit waits; the daemon answers and takes no other client",
			l.waitingQuit},
		{"does a server survive SIGKILL of its daemon?", "yes, with its client, beside a new one", l.survives},
	} {
		seen, err := q.see(ctx)
		if err != nil {
			seen = "not settled: " + err.Error()
		}
		out = append(out, question{q.asked, q.expected, seen})
	}
	return out
}

// write prints the table.
func write(w io.Writer, list []question) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "question\texpected\tseen")
	for _, q := range list {
		fmt.Fprintf(table, "%s\t%s\t%s\n", q.asked, q.expected, strings.Join(strings.Fields(q.seen), " "))
	}
	return table.Flush()
}

func (l testbed) server(ctx context.Context) (string, error) {
	servers, err := l.control.Servers(ctx)
	if err != nil || len(servers) == 0 {
		return "no server", err
	}
	status, err := l.control.Status(ctx, servers[0])
	return string(status), err
}

func (l testbed) computeMode(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "nvidia-smi", "--query-gpu=compute_mode", "--format=csv,noheader", "-i",
		l.uuid).Output()
	return string(out), err
}

func (l testbed) past(ctx context.Context) (string, error) {
	c, err := launch(ctx, l.program, map[string]string{"CUDA_VISIBLE_DEVICES": l.uuid,
		"CUDA_MPS_PIPE_DIRECTORY": ""}, 0)
	if err != nil {
		return "it fails (" + err.Error() + ")", nil
	}
	return fmt.Sprintf("it runs with %d SMs", c.number("sms")), c.close()
}

// reserved reserves n slices and returns the environment of the grant.
func (l testbed) reserved(n int) (result, map[string]string, error) {
	var r result
	env, err := r.reserve(l.plugin, l.ids[:min(n, len(l.ids))])
	return r, env, err
}

func (l testbed) ordinal(ctx context.Context) (string, error) {
	r, env, err := l.reserved(5)
	if err != nil {
		return "", err
	}
	env["CUDA_VISIBLE_DEVICES"] = "0"
	c, err := launch(ctx, l.program, env, 0)
	if err != nil {
		return "", err
	}
	defer c.close()
	client, err := attached(ctx, r.grant.Pipe, c.cmd.Process.Pid)
	kind := map[bool]string{true: "an MPS client", false: "no MPS client"}[client]
	return fmt.Sprintf("%d device, %s", c.number("devices"), kind), err
}

func (l testbed) otherShm(ctx context.Context) (string, error) {
	r, env, err := l.reserved(5)
	if err != nil {
		return "", err
	}
	c, err := launchIn(ctx, l.program, env, 0, 0)
	if err != nil {
		return "not over MPS (" + err.Error() + ")", nil
	}
	defer c.close()
	client, err := attached(ctx, r.grant.Pipe, c.cmd.Process.Pid)
	if client {
		return "over MPS", nil
	}
	if errors.Is(err, context.DeadlineExceeded) || err == nil {
		return fmt.Sprintf("not over MPS: it runs without, with %d SMs", c.number("sms")), nil
	}
	return "", err
}

func (l testbed) overhead(ctx context.Context) (string, error) {
	r, env, err := l.reserved(5)
	if err != nil {
		return "", err
	}
	c, err := launch(ctx, l.program, env, stepMiB)
	if err != nil {
		return "", err
	}
	got, limit := c.number("allocated_mib"), int(r.grant.Memory)
	return fmt.Sprintf("%d of %d MiB were allocated, in steps of %d: %d are missing", got, limit, stepMiB,
		limit-got), c.close()
}

// busy runs two clients that keep the GPU busy and returns the plugin's statistics of their tasks.
func (l testbed) busy(ctx context.Context) (string, error) {
	if len(l.ids) < 16 {
		return "", errors.New("too few slices for two clients")
	}
	for i, ids := range [][]string{l.ids[:6], l.ids[6:16]} {
		var r result
		env, err := r.reserve(l.plugin, ids)
		if err != nil {
			return "", err
		}
		env["NOMAD_ALLOC_ID"], env["NOMAD_TASK_NAME"] = fmt.Sprintf("%08d-0000-0000-0000-000000000000", i), "check"
		c, err := launch(ctx, l.program, env, -1)
		if err != nil {
			return "", err
		}
		defer c.close()
	}
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	stream, err := l.plugin.Stats(ctx, time.Second)
	if err != nil {
		return "", err
	}
	seen := "of none within 15 s"
	for r := range stream {
		if r.Error != nil {
			return "", r.Error
		}
		if a, b := l.busyOf(r, l.ids[0]), l.busyOf(r, l.ids[6]); a != "" && b != "" {
			seen = fmt.Sprintf("6 slices %s, 10 slices %s", a, b)
			if a != "0%" && b != "0%" {
				break
			}
		}
	}
	return seen, nil
}

func (l testbed) busyOf(r *device.StatsResponse, id string) string {
	for _, g := range r.Groups {
		s := g.InstanceStats[id]
		if s == nil || s.Stats == nil {
			continue
		}
		if v := s.Stats.Attributes["task_busy"]; v != nil && v.FloatNumeratorVal != nil {
			return fmt.Sprintf("%.0f%%", *v.FloatNumeratorVal)
		}
	}
	return ""
}

// growth measures how the log grows while the plugin only monitors.
func (l testbed) growth(ctx context.Context) (string, error) {
	size := func() int64 {
		st, err := os.Stat(filepath.Join(l.control.Log, "control.log"))
		if err != nil {
			return 0
		}
		return st.Size()
	}
	before := size()
	select {
	case <-time.After(l.logTime):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	return fmt.Sprintf("%.1f MB a day", float64(size()-before)*float64(24*time.Hour)/float64(l.logTime)/1e6), nil
}

// otherUser sends a command to the daemon as nobody, like a task that does not run as root.
func (l testbed) otherUser(ctx context.Context) (string, error) {
	if os.Geteuid() != 0 {
		return "", errors.New("this check does not run as root")
	}
	say := func(command string) string {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, mps.Program)
		cmd.Env = append(os.Environ(), "CUDA_MPS_PIPE_DIRECTORY="+l.control.Pipe)
		cmd.Stdin = strings.NewReader(command + "\n")
		const nobody = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Sprintf("no (%s %v)", strings.TrimSpace(string(out)), err)
		}
		return fmt.Sprintf("yes (%q)", strings.TrimSpace(string(out)))
	}
	before := l.control.Process()
	asked := say("get_default_active_thread_percentage")
	reply := say("quit -t 1")
	if err := l.await(ctx, func() bool { return l.control.Process() != before }); err == nil {
		return fmt.Sprintf("ask %s, quit yes: the daemon ended", asked), l.serves(ctx)
	}
	return fmt.Sprintf("ask %s, quit no: the daemon runs on (%s)", asked, reply), l.serves(ctx)
}

func (l testbed) survives(ctx context.Context) (string, error) {
	r, env, err := l.reserved(5)
	if err != nil {
		return "", err
	}
	c, err := launch(ctx, l.program, env, 0)
	if err != nil {
		return "", err
	}
	defer c.close()
	if ok, err := attached(ctx, r.grant.Pipe, c.cmd.Process.Pid); !ok {
		return "", errors.Join(errors.New("the client is not attached"), err)
	}
	servers, err := l.control.Servers(ctx)
	if err != nil {
		return "", err
	}
	before := l.control.Process()
	if err := l.control.Kill(before); err != nil {
		return "", err
	}
	begin := time.Now()
	if err := l.serves(ctx); err != nil {
		return "", err
	}
	took := time.Since(begin).Round(100 * time.Millisecond)
	alive := func(pid int) bool { return syscall.Kill(pid, 0) == nil }
	second := "a second client is served"
	if env, err = r.reserve(l.plugin, l.ids[5:min(10, len(l.ids))]); err == nil {
		var other *client
		if other, err = launch(ctx, l.program, env, 0); err == nil {
			err = other.close()
		}
	}
	if err != nil {
		second = "a second client is not: " + err.Error()
	}
	return fmt.Sprintf("server %v, its client %v, a new daemon after %s, %s",
		state(slices.ContainsFunc(servers, alive)), state(alive(c.cmd.Process.Pid)), took, second), nil
}

func state(alive bool) string { return map[bool]string{true: "lives", false: "ended"}[alive] }

// serves waits until the plugin has a daemon with an ACTIVE server.
func (l testbed) serves(ctx context.Context) error {
	return l.await(ctx, func() bool {
		text, err := l.server(ctx)
		return err == nil && text == string(mps.Active)
	})
}

// await waits up to fifteen seconds for a condition.
func (l testbed) await(ctx context.Context, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return errors.New("not within 15 s")
		case <-tick.C:
		}
	}
	return nil
}

// newTestbed returns a testbed on the first healthy shared group.
func newTestbed(plugin *conformance.Running, groups []*device.DeviceGroup, program string, h host) (testbed, error) {
	for _, g := range groups {
		if !g.Devices[0].Healthy || len(g.Devices) < 2 {
			continue
		}
		l := testbed{plugin: plugin, program: program, binary: h.plugin, root: cmp.Or(h.root, "/"),
			logTime: 30 * time.Second}
		for _, d := range g.Devices {
			l.ids = append(l.ids, d.ID)
		}
		slices.SortFunc(l.ids, func(a, b string) int {
			return cmp.Or(cmp.Compare(number(a), number(b)), strings.Compare(a, b))
		})
		l.uuid, _, _ = strings.Cut(l.ids[0], "::")
		dir := filepath.Join(h.runDir, "mps", l.uuid)
		l.control = mps.Control{Program: mps.Program, Pipe: filepath.Join(dir, "pipe"), Log: filepath.Join(dir, "log")}
		return l, nil
	}
	return testbed{}, errors.New("no shared GPU is healthy")
}

// number returns the number of the slice in an instance ID, "<GPU>::03of20".
func number(id string) int {
	_, slice, _ := strings.Cut(id, "::")
	n, _, _ := strings.Cut(slice, "of")
	k, _ := strconv.Atoi(n)
	return k
}
