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
func (s *supervisor) recover(ctx context.Context) {
	if n, err := s.held(ctx); err != nil || n > 0 {
		return
	}
	if err := s.control.Quit(ctx, quitTime); err != nil {
		return
	}
	s.host.Log.Info("restarting the MPS daemon after a FAULT", "gpu", s.id)
	s.start(ctx)
}

// held returns the number of clients of a daemon that answers, according to the daemon or to NVML,
// whichever is larger: a daemon is stopped only if neither lists a client.
func (s *supervisor) held(ctx context.Context) (int, error) {
	own, err := s.control.Clients(ctx)
	if err != nil {
		return 0, err
	}
	seen, err := s.nvml.mpsClients(s.id)
	return max(len(own), len(seen)), err
}

// restartHung restarts a daemon that does not answer.
func (s *supervisor) restartHung(ctx context.Context, why error) {
	s.controlFailedSince = time.Time{}
	pid := s.control.Process()
	if pid == 0 {
		if s.served {
			s.served = false
			s.restarted("MPS daemon has ended; restarting it")
		}
		s.start(ctx)
		return
	}
	if s.killed(pid, why, "started again") {
		s.restarted("MPS daemon hung; restarting it")
		s.start(ctx)
	}
}

// killed kills a daemon that has not answered for several rounds and has no clients, and reports whether
// it did. then says what happens to the daemon after its tasks have ended.
func (s *supervisor) killed(pid int, why error, then string) bool {
	patience := hungRounds
	if errors.Is(why, mps.ErrDown) {
		patience = downRounds
	}
	if s.silent++; s.silent < patience {
		if s.silent >= silentRounds || errors.Is(why, mps.ErrDown) {
			s.report("MPS daemon does not answer", false)
		}
		return false
	}
	switch clients, err := s.nvml.mpsClients(s.id); {
	case err != nil:
		s.report("MPS daemon does not answer and NVML cannot list its clients: "+err.Error(), false)
		return false
	case len(clients) > 0:
		s.report("MPS daemon does not answer; it is "+then+" when the tasks on its GPU have ended", false)
		return false
	}
	s.host.Log.Warn("killing the hung MPS daemon", "gpu", s.id, "pid", pid)
	if err := s.control.Kill(pid); err != nil {
		s.host.Log.Warn("cannot kill the hung MPS daemon", "gpu", s.id, "pid", pid, "error", err)
		return false
	}
	s.silent = 0
	return true
}

// restarted counts and reports the replacement of a daemon.
func (s *supervisor) restarted(what string) {
	s.mu.Lock()
	s.restarts++
	s.mu.Unlock()
	s.report(what, false)
}

// start starts the daemon. After each failure it waits longer before the next attempt.
func (s *supervisor) start(ctx context.Context) {
	if time.Now().Before(s.retryAt) {
		return
	}
	if !s.ended(ctx) {
		// Never start two daemons for one GPU. Later steps check it again, and kill it if it hangs.
		s.report("waiting for the former MPS daemon to end", false)
		return
	}
	err := s.control.Clean()
	if err == nil {
		err = s.control.Start(ctx, string(s.id), s.options...)
	}
	var servers []int
	if err == nil {
		servers, err = s.begun(ctx)
	}
	if err != nil {
		s.retryAt = time.Now().Add(min(watchPeriod<<min(s.failures, 10), maxBackoff))
		s.failures++
		s.report("MPS daemon cannot be started: "+err.Error(), false)
		return
	}
	s.control.Process() // records the process
	s.retryAt, s.waiting, s.fault, s.served = time.Time{}, time.Time{}, false, true
	s.watch(ctx, servers)
}

// ended waits for the end of a daemon that was told to quit, and reports whether none is running.
func (s *supervisor) ended(ctx context.Context) bool {
	for end := time.Now().Add(quitTime); s.control.Process() != 0; {
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
func (s *supervisor) begun(ctx context.Context) ([]int, error) {
	for end := time.Now().Add(beginTime); ; {
		servers, err := s.control.Servers(ctx)
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
func (s *supervisor) stopUnwanted(ctx context.Context, asked error) (gone bool) {
	pid := 0
	if asked == nil {
		s.silent = 0
	} else if pid = s.control.Process(); pid == 0 {
		_ = s.control.Clean() // an empty directory tells the task driver that there is no daemon
		if err := s.control.RemoveShm(); err != nil {
			s.host.Log.Warn(err.Error(), "gpu", s.id)
		}
		if err := s.nvml.restoreShared(s.id); err != nil {
			s.report("its former compute mode is not restored yet: "+err.Error(), false)
			return false
		}
		return true
	}
	if errors.Is(asked, mps.ErrDown) || errors.Is(asked, mps.ErrSilent) {
		s.killed(pid, asked, "ended")
		return false
	}
	clients, err := s.held(ctx)
	switch {
	case err != nil:
		s.report("its MPS daemon does not answer: "+err.Error(), false)
	case clients > 0:
		s.report(fmt.Sprintf("the GPU leaves MPS sharing when its tasks have ended (%s)", s.control.Pipe), false)
	default:
		s.host.Log.Info("stopping the MPS daemon: the GPU is no longer shared", "gpu", s.id)
		_ = s.control.Quit(ctx, quitTime)
	}
	return false
}
