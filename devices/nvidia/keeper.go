package nvidia

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"aliquot.example/devices/plugin"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/mps"
)

const (
	// watchPeriod is how often a daemon is asked; a crash is seen within it.
	watchPeriod = 2 * time.Second
	// quitTime is what a daemon without clients gets to end.
	quitTime = 2 * time.Second
	// beginTime is what a daemon that was started gets to answer: its start returns
	// before it listens.
	beginTime = 2 * time.Second
	// serverTime is what a server gets to become ACTIVE before its GPU is said to have
	// none; until then it is starting.
	serverTime = 20 * time.Second
	// silentRounds without an answer withdraw the GPU, and hungRounds end a daemon that
	// is alive and has no clients. Where nobody listens on the socket any more,
	// downRounds are enough.
	silentRounds, hungRounds, downRounds = 3, 5, 2
	// unaskedTime is how long it may fail to run the control program: a busy host is no
	// reason to move tasks.
	unaskedTime = 30 * time.Second
	// sweepPeriod is how often shared memory is looked at for what tasks left.
	sweepPeriod = 10 * time.Second
	// mostBackoff between two attempts to start a daemon that will not start.
	mostBackoff = 30 * time.Second
)

// condition is what a keeper reports of its GPU.
type condition struct {
	problem  string
	starting bool
}

// keeper keeps the one MPS daemon of one GPU: it adopts or starts it, watches it and
// its server, starts it again after a crash, sees it through a FAULT and ends it when
// the GPU is shared no longer. The skeleton lets one plugin alone work in a run
// directory, so that two never start two daemons.
type keeper struct {
	id      gpu.ID
	control mps.Control
	options []string
	host    plugin.Host
	nudge   chan struct{}
	// starting reports whether any keeper's daemon is still starting.
	starting func() bool
	nvml     gpus

	mu       sync.Mutex
	wanted   bool
	state    condition
	over     bool
	restarts int // daemons that took the place of one that had ended or hung

	// The rest belongs to run.
	fault    bool
	served   bool // a daemon has answered
	silent   int
	failures int
	retryAt  time.Time
	unasked  time.Time // since when the control program cannot be run
	said     string    // of the GPU's compute mode, last
	swept    time.Time // when shared memory was
	waiting  time.Time // since when there is no ACTIVE server
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
		// While several start, only the last reports: a round for each would delay them.
		if !before.starting || !k.starting() {
			k.host.Wake()
		}
	}
}

// run works until the daemon is unwanted and gone.
func (k *keeper) run(ctx context.Context) {
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
	if err == nil {
		k.served = true
		if err := errors.Join(k.control.BoundLogs(), k.sweep()); err != nil {
			k.host.Log.Debug(err.Error(), "gpu", k.id)
		}
	}
	switch {
	case !wanted:
		return k.dismiss(ctx, err)
	case err == nil:
		k.silent, k.failures = 0, 0
		k.watch(ctx, servers)
	case errors.Is(err, mps.ErrDown), errors.Is(err, mps.ErrSilent):
		k.revive(ctx, err)
	default:
		k.unable(err)
	}
	return false
}

// sweep removes now and then what tasks that have ended left in shared memory.
func (k *keeper) sweep() error {
	if time.Since(k.swept) < sweepPeriod {
		return nil
	}
	k.swept = time.Now()
	return k.control.SweepShm(k.control.Process())
}

// unable takes an error of the question itself, which says nothing of the daemon. It
// counts at once where the program was never there, and else when it lasts.
func (k *keeper) unable(err error) {
	if k.unasked.IsZero() {
		k.unasked = time.Now()
	}
	never := errors.Is(err, mps.ErrMissing) && !k.served
	if never || !errors.Is(err, mps.ErrUnasked) || time.Since(k.unasked) >= unaskedTime {
		k.report(err.Error(), false)
	}
}

// watch looks at the servers of a daemon that answers: it alone can serve nobody.
func (k *keeper) watch(ctx context.Context, servers []int) {
	servers, active, err := k.serving(ctx, servers)
	if err != nil {
		k.unable(err)
		return
	}
	k.unasked = time.Time{}
	problem := k.alone(servers)
	switch {
	case k.fault:
		k.recover(ctx)
	case problem != "":
		k.report(problem, false)
	case active:
		k.waiting = time.Time{}
		k.report("", false)
	default:
		if k.waiting.IsZero() {
			k.waiting = time.Now()
		}
		starting := time.Since(k.waiting) < serverTime
		problem = "MPS server is starting"
		if !starting {
			problem = fmt.Sprintf("MPS server does not become ACTIVE (%s/control.log may say why)", k.control.Log)
		}
		k.report(problem, starting)
	}
}

// alone sees to it that the servers alone are let onto the GPU. It says so where
// another MPS daemon than this plugin's serves the GPU as well, or nobody may.
func (k *keeper) alone(servers []int) (problem string) {
	others, err := k.nvml.exclusive(k.id, servers)
	said := ""
	switch pid, pipe := others.mpsOf(); {
	case errors.Is(err, errProhibited):
		return err.Error()
	case err != nil:
		said = err.Error()
	case pid != 0 && pipe != k.control.Pipe:
		return fmt.Sprintf("an MPS server that is not this plugin's (PID %d, "+
			"of the daemon at %s) serves the GPU too: end that daemon, or give the GPU mode whole or off", pid, pipe)
	case len(others) > 0:
		said = fmt.Sprintf("processes use the GPU past this MPS daemon, so it is not in mode EXCLUSIVE_PROCESS "+
			"until they have ended: %v", []int(others))
	}
	if said != k.said {
		if k.said = said; said != "" {
			k.host.Log.Warn(said, "gpu", k.id)
		}
	}
	return ""
}

// serving reports whether the daemon has an ACTIVE server, which it is made to start
// where it has none, and notes a FAULT. It returns the servers that there are then.
func (k *keeper) serving(ctx context.Context, servers []int) (now []int, active bool, err error) {
	if len(servers) == 0 && !k.fault {
		// What is left of an earlier daemon would keep a new server out.
		if problem := k.alone(nil); problem != "" {
			return nil, false, errors.New(problem)
		}
		if err := k.control.StartServer(ctx); err != nil {
			return nil, false, err
		}
		if servers, err = k.control.Servers(ctx); err != nil {
			return nil, false, err
		}
	}
	for _, server := range servers {
		// A server that went in the meantime has no status and no fault.
		switch status, _ := k.control.Status(ctx, server); status {
		case mps.Active:
			active = true
		case mps.Fault:
			k.fault = true
			k.report("MPS server is in FAULT: it takes no clients until those that it has are gone", false)
		}
	}
	return servers, active, nil
}
