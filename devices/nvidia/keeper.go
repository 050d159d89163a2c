package nvidia

import (
	"context"
	"errors"
	"fmt"
	"sync"
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
	// clients lists the processes that use the GPU through MPS, as NVML sees them.
	clients func() ([]int, error)

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
		// While several start, the last one tells: a round for each would delay them.
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
		if err := k.control.BoundLogs(); err != nil {
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

// unable takes an error of the question itself, which says nothing of the daemon.
func (k *keeper) unable(err error) {
	if !errors.Is(err, mps.ErrUnasked) {
		k.report(err.Error(), false)
		return
	}
	if k.unasked.IsZero() {
		k.unasked = time.Now()
	}
	if time.Since(k.unasked) >= unaskedTime {
		k.report(err.Error(), false)
	}
}

// watch looks at the servers of a daemon that answers: it alone can serve nobody.
func (k *keeper) watch(ctx context.Context, servers []int) {
	active, err := k.serving(ctx, servers)
	if err != nil {
		k.unable(err)
		return
	}
	k.unasked = time.Time{}
	switch {
	case k.fault:
		k.recover(ctx)
	case active:
		k.waiting = time.Time{}
		k.report("", false)
	default:
		if k.waiting.IsZero() {
			k.waiting = time.Now()
		}
		starting := time.Since(k.waiting) < serverTime
		problem := "MPS server is starting"
		if !starting {
			problem = fmt.Sprintf("MPS server does not become ACTIVE (%s/control.log may say why)", k.control.Log)
		}
		k.report(problem, starting)
	}
}

// serving reports whether the daemon has an ACTIVE server, which it is made to start
// where it has none, and notes a FAULT.
func (k *keeper) serving(ctx context.Context, servers []int) (active bool, err error) {
	if len(servers) == 0 && !k.fault {
		if err := k.control.StartServer(ctx); err != nil {
			return false, err
		}
		if servers, err = k.control.Servers(ctx); err != nil {
			return false, err
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
	return active, nil
}

// recover starts a fresh daemon once all clients of one in FAULT are gone: nothing
// else proves that the fault is, too.
func (k *keeper) recover(ctx context.Context) {
	if n, err := k.held(ctx); err != nil || n > 0 {
		return
	}
	if err := k.control.Quit(ctx, quitTime); err != nil {
		return
	}
	k.host.Log.Info("MPS daemon is started again after a FAULT", "gpu", k.id)
	k.start(ctx)
}

// held counts the clients of a daemon that answers, as it or NVML knows them. A
// daemon is ended only where both know of none.
func (k *keeper) held(ctx context.Context) (int, error) {
	own, err := k.control.Clients(ctx)
	if err != nil {
		return 0, err
	}
	seen, err := k.clients()
	return max(len(own), len(seen)), err
}

// revive brings up a daemon that does not answer.
func (k *keeper) revive(ctx context.Context, why error) {
	pid := k.control.Process()
	if pid == 0 {
		if k.served {
			k.served = false
			k.restarted("MPS daemon has ended and is started again")
		}
		k.start(ctx)
		return
	}
	patience := hungRounds
	if errors.Is(why, mps.ErrDown) {
		patience = downRounds
	}
	if k.silent++; k.silent < patience {
		if k.silent >= silentRounds || errors.Is(why, mps.ErrDown) {
			k.report("MPS daemon does not answer", false)
		}
		return
	}
	switch clients, err := k.clients(); {
	case err != nil:
		k.report("MPS daemon does not answer and it is not known who uses it: "+err.Error(), false)
		return
	case len(clients) > 0:
		k.report("MPS daemon does not answer; it is started again when the tasks on its GPU have ended", false)
		return
	}
	k.host.Log.Warn("MPS daemon hangs and is ended", "gpu", k.id, "pid", pid)
	if err := k.control.Kill(pid); err != nil {
		k.host.Log.Warn("MPS daemon that hangs cannot be ended", "gpu", k.id, "pid", pid, "error", err)
		return
	}
	k.silent = 0
	k.restarted("MPS daemon hung and is started again")
	k.start(ctx)
}

// restarted counts a daemon that is replaced, and tells of it.
func (k *keeper) restarted(what string) {
	k.mu.Lock()
	k.restarts++
	k.mu.Unlock()
	k.report(what, false)
}

// start starts the daemon, at longer intervals while it fails.
func (k *keeper) start(ctx context.Context) {
	if time.Now().Before(k.retryAt) {
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
	var servers []int
	if err == nil {
		servers, err = k.begun(ctx)
	}
	if err != nil {
		k.retryAt = time.Now().Add(min(watchPeriod<<min(k.failures, 10), mostBackoff))
		k.failures++
		k.report("MPS daemon cannot be started: "+err.Error(), false)
		return
	}
	k.control.Process() // to record which it is
	k.retryAt, k.waiting, k.fault, k.served = time.Time{}, time.Time{}, false, true
	k.watch(ctx, servers)
}

// ended gives a daemon that was told to end the time to do so, and reports whether
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
func (k *keeper) begun(ctx context.Context) ([]int, error) {
	for end := time.Now().Add(beginTime); ; {
		servers, err := k.control.Servers(ctx)
		if !errors.Is(err, mps.ErrDown) || !time.Now().Before(end) {
			return servers, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(readyPoll):
		}
	}
}

// dismiss ends an unwanted daemon once it has no clients.
func (k *keeper) dismiss(ctx context.Context, asked error) (gone bool) {
	if errors.Is(asked, mps.ErrDown) && k.control.Process() == 0 {
		_ = k.control.Clean() // an empty directory tells the task driver that none serves
		return true
	}
	clients, err := k.held(ctx)
	switch {
	case err != nil:
		k.report("its MPS daemon does not answer: "+err.Error(), false)
	case clients > 0:
		k.report(fmt.Sprintf("leaves MPS sharing when its tasks have ended (%s)", k.control.Pipe), false)
	default:
		k.host.Log.Info("MPS daemon is ended: the GPU is shared no longer", "gpu", k.id)
		_ = k.control.Quit(ctx, quitTime)
	}
	return false
}
