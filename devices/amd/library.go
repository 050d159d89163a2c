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

// libraryRetry is how often a library that could not be used is tried again.
const libraryRetry = time.Minute

// library keeps AMD SMI loaded and in step with the cards: it knows the set of
// GPUs that there was when it was started, so it is restarted when that changes.
type library struct {
	machine
	path string
	said *journal
	wake func()

	mu   sync.Mutex
	sym  *symbols
	from string
	smi  *smi
	// of is the set of cards for which smi was started, or failed to start.
	of      string
	tried   time.Time
	unwatch func()
	// resetting says since when each card is between the events before and after a reset.
	resetting map[pciAddress]time.Time
	// hot is when each card was last logged as throttled.
	hot map[pciAddress]time.Time
	// facts are what the library said last of each card and does not change.
	facts map[gpu.ID]facts
}

// facts are what the library says about a card and does not change.
type facts struct {
	device uint16 // of the board that they are of
	name   string
	memory gpu.MiB
}

// longestReset is more than a reset takes, which is seconds.
const longestReset = 3 * time.Minute

// hotPause is the least time between two log lines about a card that throttles: it sends an event
// each time that it does, for as long as it is hot.
const hotPause = time.Minute

// follow starts the library for the cards, once for each set of them.
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

// stop shuts the library down, for when the driver or a card has gone.
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

// check compares what the library and the kernel say about each card: a release
// whose records moved unseen would otherwise be believed.
func (s *smi) check(cards []card) error {
	for _, c := range cards {
		a, ok := s.asic(c)
		if ok && a.PCI != c.Nodes[0].PCIDevice {
			return fmt.Errorf("%s calls %s device %#04x and the kernel %#04x: its records are not those of release %s",
				s.Path, c.ID, a.PCI, c.Nodes[0].PCIDevice, s.Version)
		}
	}
	return nil
}

func (l *library) report(err error) {
	const subject = "library"
	switch {
	case err == nil:
		l.said.tell(0, subject, "", "")
	case errors.Is(err, errNoLibrary):
		l.said.info(subject, "no AMD SMI library found, the kernel's files are used alone", err.Error())
	default:
		l.said.warn(subject, "the AMD SMI library is not used, the kernel's files are used alone", err.Error())
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
		if tell = time.Since(l.hot[e.Card]) >= hotPause; tell {
			if l.hot == nil {
				l.hot = map[pciAddress]time.Time{}
			}
			l.hot[e.Card] = time.Now()
		}
	}
	l.mu.Unlock()
	switch e.Kind {
	case eventPreReset:
		l.said.warn("reset "+e.Card.String(), "a GPU is being reset", e.Card.String())
	case eventPostReset:
		l.said.tell(0, "reset "+e.Card.String(), "", "")
		l.said.log.Info("a GPU was reset", "gpu", e.Card.String())
	case eventThermal:
		if tell {
			l.said.log.Warn("a GPU throttles because of heat", "gpu", e.Card.String())
		}
		return // its health is as it was
	}
	l.wake()
}

// reset reports whether a card is being reset. The event that ends a reset can be
// missed, so one that lasts longer than any does is over.
func (l *library) reset(c card) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	since, resetting := l.resetting[c.PCI]
	if resetting && time.Since(since) >= longestReset {
		delete(l.resetting, c.PCI)
		l.said.tell(0, "reset "+c.PCI.String(), "", "")
		l.said.log.Warn("the end of a GPU's reset was not reported; it is judged as any other", "gpu", c.PCI.String())
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

// remember returns the facts of a card with what the library just said, and keeps
// them: a call that fails once must neither rename a group nor change its size.
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

// name is what the library calls a card, "" where it is not known.
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
