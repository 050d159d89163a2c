package nvidia

import (
	"context"
	"errors"
	"fmt"
	"time"

	"aliquot.example/internal/mps"
)

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
	seen, err := k.nvml.mpsClients(k.id)
	return max(len(own), len(seen)), err
}

// revive brings up a daemon that does not answer.
func (k *keeper) revive(ctx context.Context, why error) {
	k.unasked = time.Time{}
	pid := k.control.Process()
	if pid == 0 {
		if k.served {
			k.served = false
			k.restarted("MPS daemon has ended and is started again")
		}
		k.start(ctx)
		return
	}
	if k.killed(pid, why, "started again") {
		k.restarted("MPS daemon hung and is started again")
		k.start(ctx)
	}
}

// killed ends a daemon that has not answered for some rounds and has no clients, and
// reports whether it did. Then says what happens to the daemon when its tasks have ended.
func (k *keeper) killed(pid int, why error, then string) bool {
	patience := hungRounds
	if errors.Is(why, mps.ErrDown) {
		patience = downRounds
	}
	if k.silent++; k.silent < patience {
		if k.silent >= silentRounds || errors.Is(why, mps.ErrDown) {
			k.report("MPS daemon does not answer", false)
		}
		return false
	}
	switch clients, err := k.nvml.mpsClients(k.id); {
	case err != nil:
		k.report("MPS daemon does not answer and it is not known who uses it: "+err.Error(), false)
		return false
	case len(clients) > 0:
		k.report("MPS daemon does not answer; it is "+then+" when the tasks on its GPU have ended", false)
		return false
	}
	k.host.Log.Warn("MPS daemon hangs and is ended", "gpu", k.id, "pid", pid)
	if err := k.control.Kill(pid); err != nil {
		k.host.Log.Warn("MPS daemon that hangs cannot be ended", "gpu", k.id, "pid", pid, "error", err)
		return false
	}
	k.silent = 0
	return true
}

// restarted counts and logs a daemon that is replaced.
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

// ended waits for a daemon that was asked to end, and reports whether
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

// dismiss ends an unwanted daemon once it has no clients. The process says whether there
// is one: who asked may have found no control program.
func (k *keeper) dismiss(ctx context.Context, asked error) (gone bool) {
	pid := 0
	if asked == nil {
		k.silent = 0
	} else if pid = k.control.Process(); pid == 0 {
		_ = k.control.Clean() // an empty directory shows the task driver that none serves
		if err := k.control.RemoveShm(); err != nil {
			k.host.Log.Warn(err.Error(), "gpu", k.id)
		}
		if err := k.nvml.leave(k.id); err != nil {
			k.report("its compute mode is not yet what it was: "+err.Error(), false)
			return false
		}
		return true
	}
	if errors.Is(asked, mps.ErrDown) || errors.Is(asked, mps.ErrSilent) {
		k.killed(pid, asked, "ended")
		return false
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
