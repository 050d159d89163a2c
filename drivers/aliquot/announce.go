package aliquot

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/drivers/shared/eventer"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// maxPending limits the events that are kept until there is a listener. The oldest are dropped.
const maxPending = 256

// announcer sends events to its listeners. Nomad subscribes some time after it has started the driver,
// and again after its own restart. Meanwhile tasks are recovered, checked and ended, so announcer keeps
// events without a listener for the next one.
type announcer struct {
	events *eventer.Eventer

	mu        sync.Mutex
	listeners int
	pending   []*drivers.TaskEvent
}

func newAnnouncer(ctx context.Context, log hclog.Logger) *announcer {
	return &announcer{events: eventer.NewEventer(ctx, log)}
}

// send sends an event to every listener, or keeps it if there is none.
func (a *announcer) send(e *drivers.TaskEvent) {
	a.mu.Lock()
	if a.listeners == 0 {
		a.pending = append(a.pending, e)
		a.pending = a.pending[max(0, len(a.pending)-maxPending):]
		a.mu.Unlock()
		return
	}
	a.mu.Unlock()
	// An error means that the driver is shutting down; nobody listens then.
	_ = a.events.EmitEvent(e)
}

// keep keeps events that a listener has not received before it left.
func (a *announcer) keep(events []*drivers.TaskEvent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pending = append(slices.Clone(events), a.pending...)
	a.pending = a.pending[max(0, len(a.pending)-maxPending):]
}

// listen returns a channel of events, which is never closed, and the events that no listener has
// received. leave ends the subscription.
func (a *announcer) listen(ctx context.Context) (received <-chan *drivers.TaskEvent, missed []*drivers.TaskEvent,
	leave func(), err error) {
	if received, err = a.events.TaskEvents(ctx); err != nil {
		return nil, nil, nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.listeners++
	missed, a.pending = a.pending, nil
	return received, missed, sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.listeners--
	}), nil
}

// TaskEvents implements drivers.DriverPlugin: the docker driver's events and this
// driver's.
func (d *Driver) TaskEvents(ctx context.Context) (<-chan *drivers.TaskEvent, error) {
	ofDocker, err := d.Driver.TaskEvents(ctx)
	if err != nil {
		return nil, err
	}
	own, missed, leave, err := d.events.listen(ctx)
	if err != nil {
		return nil, err
	}
	out := make(chan *drivers.TaskEvent)
	go func() {
		defer close(out)
		defer leave()
		for i, event := range missed {
			if !pass(ctx, out, event) {
				d.events.keep(missed[i:])
				return
			}
		}
		for ofDocker != nil || own != nil {
			var event *drivers.TaskEvent
			var ok bool
			select {
			case event, ok = <-ofDocker:
				if !ok {
					ofDocker = nil
				}
			case event, ok = <-own:
				if !ok {
					own = nil
				}
			case <-ctx.Done():
				return
			}
			if ok && !pass(ctx, out, event) {
				return
			}
		}
	}()
	return out, nil
}

// pass sends an event, unless the listener goes first.
func pass(ctx context.Context, out chan<- *drivers.TaskEvent, event *drivers.TaskEvent) bool {
	select {
	case out <- event:
		return true
	case <-ctx.Done():
		return false
	}
}

func (d *Driver) emit(cfg *drivers.TaskConfig, message string, notes map[string]string) {
	d.events.send(&drivers.TaskEvent{
		TaskID: cfg.ID, TaskName: cfg.Name, AllocID: cfg.AllocID, Timestamp: time.Now(), Message: message,
		Annotations: notes,
	})
}
