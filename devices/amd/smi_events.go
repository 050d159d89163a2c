package amd

import (
	"sync"
	"time"
)

// event is one event of a card.
type event struct {
	Card pciAddress
	Kind uint32
}

// eventWait limits one wait in the library, and with it the duration of a stop.
const eventWait = 250 * time.Millisecond

// eventBatch is the largest number of events that one call returns.
const eventBatch = 16

// watch delivers the events of all cards until stop is called, which returns after the last delivery.
// Releases without events deliver none.
func (s *smi) watch(deliver func(event)) (stop func()) {
	if s.sym.EventsOpen == nil || s.sym.EventsMask == nil || s.sym.Events == nil || s.sym.EventsClose == nil {
		return func() {}
	}
	opened := map[handle]pciAddress{}
	for address, h := range s.handles {
		mask := uint64(1)<<(eventThermal-1) | 1<<(eventPreReset-1) | 1<<(eventPostReset-1)
		if s.sym.EventsOpen(h) == statusOK && s.sym.EventsMask(h, mask) == statusOK {
			opened[h] = address
		}
	}
	if len(opened) == 0 {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.follow(opened, deliver, done) })
	return func() {
		close(done)
		wg.Wait()
		for h := range opened {
			s.sym.EventsClose(h)
		}
	}
}

// follow delivers the events of opened cards until done is closed.
func (s *smi) follow(opened map[handle]pciAddress, deliver func(event), done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		default:
		}
		began := time.Now()
		for _, e := range s.take(opened) {
			deliver(e)
		}
		// Avoid a busy loop if the library fails at once.
		if spent := time.Since(began); spent < eventWait {
			select {
			case <-done:
				return
			case <-time.After(min(eventWait-spent, 20*time.Millisecond)):
			}
		}
	}
}

// take waits for events. The size of a record depends on the release. Events of unknown cards or kinds
// are dropped.
func (s *smi) take(opened map[handle]pciAddress) []event {
	b := make([]byte, eventBatch*s.layout.event+bufferSize)
	n := uint32(eventBatch)
	if s.sym.Events(int32(eventWait/time.Millisecond), &n, &b[0]) != statusOK {
		return nil
	}
	var out []event
	for i := range min(int(n), eventBatch) {
		record := b[i*s.layout.event:]
		h, _ := eventHandle.uint(record)
		address, known := opened[handle(h)]
		kind, _ := eventKind.uint(record)
		if known && kind >= 1 && kind <= eventPostReset {
			out = append(out, event{Card: address, Kind: uint32(kind)})
		}
	}
	return out
}
