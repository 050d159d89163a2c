package aliquot

import (
	"context"
	"sync"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/gpu"
)

// tasks are the running tasks of this driver, by Nomad's task ID.
type tasks struct {
	mu   sync.Mutex
	byID map[string]*task
	// starting has the claims of tasks that are not in byID yet.
	starting map[string]claim
}

func newTasks() *tasks { return &tasks{byID: map[string]*task{}, starting: map[string]claim{}} }

// task is this driver's state of a task, in addition to the docker driver's.
type task struct {
	config    *drivers.TaskConfig
	container string
	grant     *gpu.Grant      // nil without a GPU
	ctx       context.Context // ends with the task
	end       context.CancelFunc

	mu       sync.Mutex
	expected bool  // Nomad or this driver is ending it
	failure  error // why this driver has ended it
}

func (s *tasks) add(ctx context.Context, cfg *drivers.TaskConfig, container string, grant *gpu.Grant) *task {
	t := &task{config: cfg, container: container, grant: grant}
	t.ctx, t.end = context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[cfg.ID] = t
	return t
}

func (s *tasks) get(id string) (*task, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.byID[id]
	return t, ok
}

// of returns the task that runs in a container.
func (s *tasks) of(container string) (*task, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.byID {
		if t.container == container {
			return t, true
		}
	}
	return nil, false
}

func (s *tasks) forget(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.byID[id]; ok {
		t.end()
		delete(s.byID, id)
	}
}

// expectEnd records that Nomad is ending the task, so that killed does not report it.
func (s *tasks) expectEnd(id string) {
	if t, ok := s.get(id); ok {
		t.expect()
	}
}

func (t *task) expect() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expected = true
}

func (t *task) isExpected() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.expected
}

// fail records why the driver ends the task.
func (t *task) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failure, t.expected = err, true
}

// verdict replaces the result of a task that the driver ended.
func (t *task) verdict(result *drivers.ExitResult) *drivers.ExitResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failure == nil || result == nil {
		return result
	}
	out := result.Copy()
	out.Err = t.failure
	if out.ExitCode == 0 {
		out.ExitCode = 1
	}
	return out
}
