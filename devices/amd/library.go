package amd

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"aliquot.example/internal/gpu"
)

// libraryRetry is the pause before a library that could not be used is tried again.
const libraryRetry = time.Minute

// library keeps AMD SMI loaded. AMD SMI knows only the GPUs that were present at its start, so library
// restarts it when the set of cards changes.
type library struct {
	machine
	path   string
	logged *journal
	wake   func()

	mu   sync.Mutex
	sym  *symbols
	from string
	smi  *smi
	// of is the set of cards for which smi was started, or failed to start.
	of      string
	tried   time.Time
	unwatch func()
	// resetting has the start of each card's reset that is in progress.
	resetting map[pciAddress]time.Time
	// throttled is when each card was last logged as throttled.
	throttled map[pciAddress]time.Time
	// facts has the library's last facts about each card.
	facts map[gpu.ID]facts
}

// facts are properties of a card that never change.
type facts struct {
	device uint16 // of the board that they are of
	name   string
	memory gpu.MiB
}

// maxResetTime is longer than any reset: resets take seconds.
const maxResetTime = 3 * time.Minute

// throttleLogInterval is the shortest time between two log lines about a card that throttles, because a hot card
// sends many events.
const throttleLogInterval = time.Minute

// follow starts the library for the cards, and restarts it when they have changed.
func (l *library) follow(cards []card) {
	of := signature(cards)
	l.mu.Lock()
	same := l.of == of && (l.smi != nil || time.Since(l.tried) < libraryRetry)
	l.mu.Unlock()
	if same {
		return
	}
	l.stop()
	s, err := l.load(cards)
	l.report(err)
	l.mu.Lock()
	l.of, l.tried, l.smi, l.resetting = of, time.Now(), s, map[pciAddress]time.Time{}
	l.mu.Unlock()
	if s != nil {
		stop := s.watch(l.deliver)
		l.mu.Lock()
		l.unwatch = stop
		l.mu.Unlock()
	}
}

// stop shuts the library down, after the driver or a card has gone.
func (l *library) stop() {
	l.mu.Lock()
	s, unwatch := l.smi, l.unwatch
	l.smi, l.unwatch, l.of = nil, nil, ""
	l.mu.Unlock()
	if unwatch != nil {
		unwatch()
	}
	if s != nil {
		s.close()
	}
}

func (l *library) load(cards []card) (*smi, error) {
	if l.sym == nil {
		sym, from, err := l.open(l.path)
		if err != nil {
			return nil, err
		}
		l.sym, l.from = sym, from
	}
	s, err := start(l.sym, l.from)
	if err != nil {
		return nil, err
	}
	if err := s.check(cards); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// check compares each card's device ID in the library and in the kernel. A difference means that the
// layout of this release's records is not the known one.
func (s *smi) check(cards []card) error {
	for _, c := range cards {
		a, ok := s.asic(c)
		if ok && a.PCI != c.Nodes[0].PCIDevice {
			return fmt.Errorf("%s reports device %#04x for %s, but the kernel reports %#04x: "+
				"the library's data does not have the format of release %s",
				s.Path, a.PCI, c.ID, c.Nodes[0].PCIDevice, s.Version)
		}
	}
	return nil
}

func (l *library) report(err error) {
	const subject = "library"
	switch {
	case err == nil:
		l.logged.logChange(0, subject, "", "")
	case errors.Is(err, errNoLibrary):
		l.logged.info(subject, "no AMD SMI library found, using only the kernel's files", err.Error())
	default:
		l.logged.warn(subject, "cannot use the AMD SMI library, using only the kernel's files", err.Error())
	}
}

func signature(cards []card) string {
	var b strings.Builder
	for _, c := range cards {
		fmt.Fprintf(&b, "%s/%d/%s ", c.ID, len(c.Nodes), c.profile())
	}
	return b.String()
}

func (l *library) deliver(e event) {
	l.mu.Lock()
	tell := false
	switch e.Kind {
	case eventPreReset:
		l.resetting[e.Card] = time.Now()
	case eventPostReset:
		delete(l.resetting, e.Card)
	case eventThermal:
		if tell = time.Since(l.throttled[e.Card]) >= throttleLogInterval; tell {
			if l.throttled == nil {
				l.throttled = map[pciAddress]time.Time{}
			}
			l.throttled[e.Card] = time.Now()
		}
	}
	l.mu.Unlock()
	switch e.Kind {
	case eventPreReset:
		l.logged.warn("reset "+e.Card.String(), "a GPU is being reset", e.Card.String())
	case eventPostReset:
		l.logged.logChange(0, "reset "+e.Card.String(), "", "")
		l.logged.log.Info("a GPU was reset", "gpu", e.Card.String())
	case eventThermal:
		if tell {
			l.logged.log.Warn("a GPU throttles because of heat", "gpu", e.Card.String())
		}
		return // throttling does not change the health
	}
	l.wake()
}

// reset reports whether a card is being reset. The event at the end of a reset can be missed, so after
// maxResetTime the reset counts as finished.
func (l *library) reset(c card) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	since, resetting := l.resetting[c.PCI]
	if resetting && time.Since(since) >= maxResetTime {
		delete(l.resetting, c.PCI)
		l.logged.logChange(0, "reset "+c.PCI.String(), "", "")
		l.logged.log.Warn("the driver did not report the end of a GPU's reset; assuming that it has ended",
			"gpu", c.PCI.String())
		return false
	}
	return resetting
}

// use returns the running library, nil without one.
func (l *library) use() *smi {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.smi
}

// remember merges new facts about a card into the known ones, and returns the result. A call that fails
// once must neither rename a group nor change its size.
func (l *library) remember(c card, now facts) facts {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := l.facts[c.ID]
	if now.device = c.Nodes[0].PCIDevice; known.device != now.device {
		known = facts{}
	}
	now.name, now.memory = cmp.Or(now.name, known.name), cmp.Or(now.memory, known.memory)
	if l.facts == nil {
		l.facts = map[gpu.ID]facts{}
	}
	l.facts[c.ID] = now
	return now
}

// name returns the library's name of a card, or "" if it is not known.
func (l *library) name(c card) string {
	var now facts
	if s := l.use(); s != nil {
		a, _ := s.asic(c)
		now.name = a.Name
	}
	return l.remember(c, now).name
}

func (l *library) memory(c card) gpu.MiB {
	var now facts
	if s := l.use(); s != nil {
		now.memory, _ = s.vram(c)
	}
	return l.remember(c, now).memory
}
