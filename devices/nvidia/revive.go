package nvidia

import (
	"context"
	"errors"
	"fmt"
	"time"

	"aliquot.example/internal/mps"
)

// recover replaces a daemon in FAULT once all of its clients have ended: only that proves that the
// fault is gone.
func (k *supervisor) recover(ctx context.Context) {
	if n, err := k.held(ctx); err != nil || n > 0 {
		return
	}
	if err := k.control.Quit(ctx, quitTime); err != nil {
		return
	}
	k.host.Log.Info("restarting the MPS daemon after a FAULT", "gpu", k.id)
	k.start(ctx)
}

// held returns the number of clients of a daemon that answers, according to the daemon or to NVML,
// whichever is larger: a daemon is stopped only if neither lists a client.
func (k *supervisor) held(ctx context.Context) (int, error) {
	own, err := k.control.Clients(ctx)
	if err != nil {
		return 0, err
	}
	seen, err := k.nvml.mpsClients(k.id)
	return max(len(own), len(seen)), err
}

// restartHung restarts a daemon that does not answer.
func (k *supervisor) restartHung(ctx context.Context, why error) {
	k.controlFailedSince = time.Time{}
	pid := k.control.Process()
	if pid == 0 {
		if k.served {
			k.served = false
			k.restarted("MPS daemon has ended; restarting it")
		}
		k.start(ctx)
		return
	}
	if k.killed(pid, why, "started again") {
		k.restarted("MPS daemon hung; restarting it")
		k.start(ctx)
	}
}

// killed kills a daemon that has not answered for several rounds and has no clients, and reports whether
// it did. then says what happens to the daemon after its tasks have ended.
func (k *supervisor) killed(pid int, why error, then string) bool {
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
		k.report("MPS daemon does not answer and NVML cannot list its clients: "+err.Error(), false)
		return false
	case len(clients) > 0:
		k.report("MPS daemon does not answer; it is "+then+" when the tasks on its GPU have ended", false)
		return false
	}
	k.host.Log.Warn("killing the hung MPS daemon", "gpu", k.id, "pid", pid)
	if err := k.control.Kill(pid); err != nil {
		k.host.Log.Warn("cannot kill the hung MPS daemon", "gpu", k.id, "pid", pid, "error", err)
		return false
	}
	k.silent = 0
	return true
}

// restarted counts and reports the replacement of a daemon.
func (k *supervisor) restarted(what string) {
	k.mu.Lock()
	k.restarts++
	k.mu.Unlock()
	k.report(what, false)
}

// start starts the daemon. After each failure it waits longer before the next attempt.
func (k *supervisor) start(ctx context.Context) {
	if time.Now().Before(k.retryAt) {
		return
	}
	if !k.ended(ctx) {
		// Never start two daemons for one GPU. Later steps check it again, and kill it if it hangs.
		k.report("waiting for the former MPS daemon to end", false)
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
		k.retryAt = time.Now().Add(min(watchPeriod<<min(k.failures, 10), maxBackoff))
		k.failures++
		k.report("MPS daemon cannot be started: "+err.Error(), false)
		return
	}
	k.control.Process() // records the process
	k.retryAt, k.waiting, k.fault, k.served = time.Time{}, time.Time{}, false, true
	k.watch(ctx, servers)
}

// ended waits for the end of a daemon that was told to quit, and reports whether none is running.
func (k *supervisor) ended(ctx context.Context) bool {
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

// begun waits until a new daemon answers, at most beginTime.
func (k *supervisor) begun(ctx context.Context) ([]int, error) {
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

// stopUnwanted stops an unwanted daemon once it has no clients. It looks for the daemon's process, because
// asked, the error of the last request, may only mean that there is no control program.
func (k *supervisor) stopUnwanted(ctx context.Context, asked error) (gone bool) {
	pid := 0
	if asked == nil {
		k.silent = 0
	} else if pid = k.control.Process(); pid == 0 {
		_ = k.control.Clean() // an empty directory tells the task driver that there is no daemon
		if err := k.control.RemoveShm(); err != nil {
			k.host.Log.Warn(err.Error(), "gpu", k.id)
		}
		if err := k.nvml.restoreShared(k.id); err != nil {
			k.report("its former compute mode is not restored yet: "+err.Error(), false)
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
		k.report(fmt.Sprintf("the GPU leaves MPS sharing when its tasks have ended (%s)", k.control.Pipe), false)
	default:
		k.host.Log.Info("stopping the MPS daemon: the GPU is no longer shared", "gpu", k.id)
		_ = k.control.Quit(ctx, quitTime)
	}
	return false
}
