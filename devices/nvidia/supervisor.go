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
	// watchPeriod is the interval between two checks of a daemon, within which a crash is seen.
	watchPeriod = 2 * time.Second
	// quitTime is how long a daemon without clients may take to end.
	quitTime = 2 * time.Second
	// beginTime is how long a new daemon may take to answer: its start returns before it
	// listens.
	beginTime = 2 * time.Second
	// serverTime is how long a server may take to become ACTIVE. Until then it counts as
	// starting.
	serverTime = 20 * time.Second
	// After silentRounds without an answer, the GPU is unhealthy. After hungRounds, a daemon
	// that is alive and has no clients is killed, or after downRounds if nothing listens on its
	// socket any more.
	silentRounds, hungRounds, downRounds = 3, 5, 2
	// controlFailedTime is how long the control program may fail to run before the GPU is unhealthy:
	// a busy host is no reason to move tasks.
	controlFailedTime = 30 * time.Second
	// sweepPeriod is the interval at which files that tasks left in shared memory are removed.
	sweepPeriod = 10 * time.Second
	// maxBackoff is the longest pause between two attempts to start a daemon.
	maxBackoff = 30 * time.Second
)

// condition is what a supervisor reports of its GPU.
type condition struct {
	problem  string
	starting bool
}

// supervisor runs the MPS daemon of one GPU: it adopts or starts the daemon, checks it and its server,
// restarts it after a crash or a FAULT, and stops it when the GPU is no longer shared. Only one plugin
// works in a run directory (claim), so two supervisors never start two daemons for one GPU.
type supervisor struct {
	id      gpu.ID
	control mps.Control
	options []string
	host    plugin.Host
	wake    chan struct{}
	// starting reports whether any supervisor's daemon is still starting.
	starting func() bool
	nvml     gpus

	mu       sync.Mutex
	wanted   bool
	state    condition
	done     bool
	restarts int // daemons that replaced one that had ended or hung

	// The rest belongs to run.
	fault              bool
	served             bool // a daemon has answered
	silent             int
	failures           int
	retryAt            time.Time
	controlFailedSince time.Time // since when the control program cannot be run
	logged             string    // the last message about the GPU's compute mode
	swept              time.Time // when sweep last ran
	waiting            time.Time // since when there is no ACTIVE server
}

// want sets whether the daemon is wanted and returns the supervisor's report. The
// second result says that the daemon was unwanted and has ended.
func (s *supervisor) want(wanted bool) (condition, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted != wanted {
		s.wanted = wanted
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return s.state, s.done
}

func (s *supervisor) report(problem string, starting bool) {
	s.mu.Lock()
	before := s.state
	s.state = condition{problem: problem, starting: starting}
	s.mu.Unlock()
	if before.problem != problem {
		if problem != "" {
			s.host.Log.Warn(problem, "gpu", s.id)
		} else {
			s.host.Log.Info("MPS daemon accepts clients", "gpu", s.id, "pipe", s.control.Pipe)
		}
		// While several daemons start, only the last wakes the loop: a round for each would
		// delay them.
		if !before.starting || !s.starting() {
			s.host.Wake()
		}
	}
}

// run works until the daemon is unwanted and has ended.
func (s *supervisor) run(ctx context.Context) {
	for {
		if s.step(ctx) {
			s.mu.Lock()
			// The daemon may be wanted again in the meantime.
			s.done = !s.wanted
			over := s.done
			s.mu.Unlock()
			if over {
				s.host.Wake()
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-time.After(watchPeriod):
		}
	}
}

// step checks the daemon once and reports whether an unwanted one has ended.
func (s *supervisor) step(ctx context.Context) (gone bool) {
	s.mu.Lock()
	wanted := s.wanted
	s.mu.Unlock()
	servers, err := s.control.Servers(ctx)
	if err == nil {
		s.served = true
		if err := errors.Join(s.control.BoundLogs(), s.sweep()); err != nil {
			s.host.Log.Debug(err.Error(), "gpu", s.id)
		}
	}
	switch {
	case !wanted:
		return s.stopUnwanted(ctx, err)
	case err == nil:
		s.silent, s.failures = 0, 0
		s.watch(ctx, servers)
	case errors.Is(err, mps.ErrDown), errors.Is(err, mps.ErrSilent):
		s.restartHung(ctx, err)
	default:
		s.controlFailed(err)
	}
	return false
}

// sweep removes, once per sweepPeriod, the files that ended tasks left in shared memory.
func (s *supervisor) sweep() error {
	if time.Since(s.swept) < sweepPeriod {
		return nil
	}
	s.swept = time.Now()
	return s.control.SweepShm(s.control.Process())
}

// controlFailed handles a failure to run the control program, which says nothing about the daemon. It reports
// a problem at once if the program was never there, and otherwise after controlFailedTime.
func (s *supervisor) controlFailed(err error) {
	if s.controlFailedSince.IsZero() {
		s.controlFailedSince = time.Now()
	}
	never := errors.Is(err, mps.ErrMissing) && !s.served
	if never || !errors.Is(err, mps.ErrUnasked) || time.Since(s.controlFailedSince) >= controlFailedTime {
		s.report(err.Error(), false)
	}
}

// watch checks the servers of a daemon that answers: without a server, it serves nobody.
func (s *supervisor) watch(ctx context.Context, servers []int) {
	servers, active, err := s.serving(ctx, servers)
	if err != nil {
		s.controlFailed(err)
		return
	}
	s.controlFailedSince = time.Time{}
	problem := s.setExclusive(servers)
	switch {
	case s.fault:
		s.recover(ctx)
	case problem != "":
		s.report(problem, false)
	case active:
		s.waiting = time.Time{}
		s.report("", false)
	default:
		if s.waiting.IsZero() {
			s.waiting = time.Now()
		}
		starting := time.Since(s.waiting) < serverTime
		problem = "MPS server is starting"
		if !starting {
			problem = fmt.Sprintf("MPS server does not become ACTIVE (see %s/control.log)", s.control.Log)
		}
		s.report(problem, starting)
	}
}

// setExclusive sets the compute mode so that only the servers can use the GPU. It returns a problem if another
// MPS daemon also serves the GPU, or if the compute mode allows no programs.
func (s *supervisor) setExclusive(servers []int) (problem string) {
	others, err := s.nvml.exclusive(s.id, servers)
	message := ""
	switch pid, pipe := others.mpsOf(); {
	case errors.Is(err, errProhibited):
		return err.Error()
	case err != nil:
		message = err.Error()
	case pid != 0 && pipe != s.control.Pipe:
		return fmt.Sprintf("an MPS server that is not this plugin's (PID %d, "+
			"of the daemon at %s) serves the GPU too: stop that daemon, "+
			"or set mode whole or off for the GPU", pid, pipe)
	case len(others) > 0:
		message = fmt.Sprintf("processes use the GPU without this MPS daemon; its compute mode becomes "+
			"EXCLUSIVE_PROCESS when they have ended: %v", []int(others))
	}
	if message != s.logged {
		if s.logged = message; message != "" {
			s.host.Log.Warn(message, "gpu", s.id)
		}
	}
	return ""
}

// serving reports whether the daemon has an ACTIVE server, and records a FAULT. It makes a daemon
// without a server start one. It returns the daemon's servers.
func (s *supervisor) serving(ctx context.Context, servers []int) (now []int, active bool, err error) {
	if len(servers) == 0 && !s.fault {
		// Remains of an earlier daemon would prevent a new server from starting.
		if problem := s.setExclusive(nil); problem != "" {
			return nil, false, errors.New(problem)
		}
		if err := s.control.StartServer(ctx); err != nil {
			return nil, false, err
		}
		if servers, err = s.control.Servers(ctx); err != nil {
			return nil, false, err
		}
	}
	for _, server := range servers {
		// A server that has ended in the meantime has no status and no fault.
		switch status, _ := s.control.Status(ctx, server); status {
		case mps.Active:
			active = true
		case mps.Fault:
			s.fault = true
			s.report("MPS server is in FAULT: it accepts no new clients until its present ones have ended", false)
		}
	}
	return servers, active, nil
}
