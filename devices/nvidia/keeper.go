package nvidia

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"aliquot/devices/plugin"
	"aliquot/internal/gpu"
	"aliquot/internal/mps"
)

const (
	// watchPeriod is how often a daemon is asked; a crash is seen within it.
	watchPeriod = 2 * time.Second
	// quitTime is what a daemon without clients gets to end.
	quitTime = 2 * time.Second
	// beginTime is what a daemon that was started gets to answer: its start returns
	// before it listens.
	beginTime = 2 * time.Second
	// hungRounds without an answer end a daemon that is alive.
	hungRounds = 3
	// mostBackoff between two attempts to start a daemon that will not start.
	mostBackoff = 30 * time.Second
)

// condition is what a keeper reports of its GPU.
type condition struct {
	problem  string
	starting bool
}

// keeper keeps the one MPS daemon of one GPU: it adopts or starts it, watches it,
// starts it again after a crash, sees it through a FAULT and ends it when the GPU
// is shared no longer. A lock on the GPU's run directory, held as long as this
// process lives, keeps two plugins from starting two daemons.
type keeper struct {
	id      gpu.ID
	dir     string
	control mps.Control
	options []string
	host    plugin.Host
	nudge   chan struct{}
	// starting tells whether any keeper's daemon is still starting.
	starting func() bool

	mu     sync.Mutex
	wanted bool
	state  condition
	over   bool

	// The rest belongs to run.
	lock     *os.File
	fault    bool
	silent   int
	failures int
	retryAt  time.Time
}

// want sets whether the daemon is wanted and returns the keeper's report. The
// second result says that the daemon was unwanted and has ended.
func (k *keeper) want(wanted bool) (condition, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wanted != wanted {
		k.wanted = wanted
		select {
		case k.nudge <- struct{}{}:
		default:
		}
	}
	return k.state, k.over
}

func (k *keeper) report(problem string, starting bool) {
	k.mu.Lock()
	before := k.state
	k.state = condition{problem: problem, starting: starting}
	k.mu.Unlock()
	if before.problem != problem {
		if problem != "" {
			k.host.Log.Warn(problem, "gpu", k.id)
		} else {
			k.host.Log.Info("MPS daemon serves", "gpu", k.id, "pipe", k.control.Pipe)
		}
		// While several start, the last one tells: a round for each would delay them.
		if !before.starting || !k.starting() {
			k.host.Wake()
		}
	}
}

// run works until the daemon is unwanted and gone.
func (k *keeper) run(ctx context.Context) {
	defer func() {
		if k.lock != nil {
			k.lock.Close()
		}
	}()
	for {
		if k.step(ctx) {
			k.mu.Lock()
			// Wanted again in the meantime: go on.
			k.over = !k.wanted
			over := k.over
			k.mu.Unlock()
			if over {
				k.host.Wake()
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-k.nudge:
		case <-time.After(watchPeriod):
		}
	}
}

// step looks after the daemon once and returns whether an unwanted one is gone.
func (k *keeper) step(ctx context.Context) (gone bool) {
	k.mu.Lock()
	wanted := k.wanted
	k.mu.Unlock()
	servers, err := k.control.Servers(ctx)
	switch {
	case !wanted:
		return k.dismiss(ctx, err)
	case err == nil:
		k.silent, k.failures = 0, 0
		k.locked() // for the day that it crashes
		k.watch(ctx, servers)
	case !errors.Is(err, mps.ErrDown):
		k.report(err.Error(), false)
	default:
		k.revive(ctx)
	}
	return false
}

// watch looks at the servers of a daemon that answers.
func (k *keeper) watch(ctx context.Context, servers []int) {
	for _, server := range servers {
		// A server that went in the meantime has no status and no fault.
		if status, err := k.control.Status(ctx, server); err == nil && status == mps.Fault {
			k.fault = true
			k.report("MPS server is in FAULT: it takes no clients until those that it has are gone", false)
		}
	}
	if !k.fault {
		k.report("", false)
		return
	}
	if clients, err := k.control.Clients(ctx); err != nil || len(clients) > 0 {
		return
	}
	// All clients are gone. Only a fresh daemon proves that the fault is, too.
	if err := k.control.Quit(ctx, quitTime); err != nil {
		return
	}
	k.host.Log.Info("MPS daemon is started again after a FAULT", "gpu", k.id)
	k.start(ctx)
}

// revive brings up a daemon that does not answer.
func (k *keeper) revive(ctx context.Context) {
	if !k.locked() {
		k.report("MPS daemon does not answer and another "+Name+" looks after it", true)
		return
	}
	if pid := k.control.Process(); pid != 0 {
		if k.silent++; k.silent < hungRounds {
			k.report("MPS daemon does not answer", false)
			return
		}
		k.host.Log.Warn("MPS daemon hangs and is ended", "gpu", k.id, "pid", pid)
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	k.silent = 0
	k.start(ctx)
}

// start starts the daemon, at longer intervals while it fails.
func (k *keeper) start(ctx context.Context) {
	if time.Now().Before(k.retryAt) || !k.locked() {
		return
	}
	if !k.ended(ctx) {
		// Never two daemons on one GPU. It is looked at again, and killed if it hangs.
		k.report("MPS daemon takes long to end", false)
		return
	}
	err := k.control.Clean()
	if err == nil {
		err = k.control.Start(ctx, string(k.id), k.options...)
	}
	if err == nil {
		err = k.begun(ctx)
	}
	if err != nil {
		k.retryAt = time.Now().Add(min(watchPeriod<<min(k.failures, 10), mostBackoff))
		k.failures++
		k.report("MPS daemon cannot be started: "+err.Error(), false)
		return
	}
	k.retryAt, k.fault = time.Time{}, false // a fresh daemon has none
	k.report("", false)
}

// ended gives a daemon that was told to end the time to do so, and tells whether
// none runs.
func (k *keeper) ended(ctx context.Context) bool {
	for end := time.Now().Add(quitTime); k.control.Process() != 0; {
		if !time.Now().Before(end) {
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(readyPoll):
		}
	}
	return true
}

// begun gives a daemon that was started the time to answer.
func (k *keeper) begun(ctx context.Context) error {
	for end := time.Now().Add(beginTime); ; {
		_, err := k.control.Servers(ctx)
		if !errors.Is(err, mps.ErrDown) || !time.Now().Before(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(readyPoll):
		}
	}
}

// dismiss ends an unwanted daemon once it has no clients.
func (k *keeper) dismiss(ctx context.Context, down error) (gone bool) {
	if errors.Is(down, mps.ErrDown) && k.control.Process() == 0 {
		if k.locked() {
			_ = k.control.Clean() // an empty directory tells the task driver that none serves
		}
		return true
	}
	if !k.locked() {
		k.report("its MPS daemon is looked after by another "+Name, false)
		return false
	}
	clients, err := k.control.Clients(ctx)
	switch {
	case err != nil:
		k.report("its MPS daemon does not answer: "+err.Error(), false)
	case len(clients) > 0:
		k.report(fmt.Sprintf("leaves MPS sharing when its tasks have ended (%s)", k.control.Pipe), false)
	default:
		k.host.Log.Info("MPS daemon is ended: the GPU is shared no longer", "gpu", k.id)
		_ = k.control.Quit(ctx, quitTime)
	}
	return false
}

// locked takes the lock of the GPU's run directory, or has it.
func (k *keeper) locked() bool {
	if k.lock != nil {
		return true
	}
	if err := os.MkdirAll(k.dir, 0o755); err != nil {
		return false
	}
	f, err := os.OpenFile(filepath.Join(k.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return false
	}
	k.lock = f
	return true
}
