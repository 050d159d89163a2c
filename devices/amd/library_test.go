package amd

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestACardThatThrottlesIsToldOnce: it sends an event each time, and its health is
// as it was.
func TestACardThatThrottlesIsToldOnce(t *testing.T) {
	log, wakes := &logged{}, 0
	l := library{logged: &journal{log: log.logger(), logged: map[string]string{}}, wake: func() { wakes++ }, resetting: map[pciAddress]time.Time{}}
	hot, other := card{PCI: pciAddress{Bus: 1}}, card{PCI: pciAddress{Bus: 2}}
	for range 1000 {
		l.deliver(event{Card: hot.PCI, Kind: eventThermal})
	}
	l.deliver(event{Card: other.PCI, Kind: eventThermal})
	if n := log.count("WARN", "throttles"); n != 2 || wakes != 0 {
		t.Errorf("%d lines and %d rounds of two cards that throttle", n, wakes)
	}
	l.deliver(event{Card: hot.PCI, Kind: eventPreReset})
	if !l.reset(hot) || l.reset(other) || wakes != 1 {
		t.Errorf("a reset: %v %v, %d rounds", l.reset(hot), l.reset(other), wakes)
	}
}

// TestAResetWhoseEndIsMissedIsForgotten: the event after it may be lost.
func TestAResetWhoseEndIsMissedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &logged{}
		l := library{logged: &journal{log: log.logger(), logged: map[string]string{}}, wake: func() {}, resetting: map[pciAddress]time.Time{}}
		c := card{PCI: pciAddress{Bus: 1}}
		for n := range 2 { // the next one is reported and counts again
			l.deliver(event{Card: c.PCI, Kind: eventPreReset})
			time.Sleep(maxResetTime - time.Second)
			if !l.reset(c) {
				t.Fatal("a reset is over too early")
			}
			time.Sleep(time.Second)
			for range 2 { // the first says that the end is missing, the second nothing
				if l.reset(c) {
					t.Error("a reset goes on for ever")
				}
			}
			if told, ended := log.count("WARN", "is being reset"), log.count("WARN", "did not report the end of a GPU's reset"); told != n+1 || ended != n+1 {
				t.Errorf("told of %d resets and %d ends, want %d", told, ended, n+1)
			}
		}
	})
}

// TestAClosedLibraryIsNotAsked: its handles point to what is gone, and statistics
// are read beside the loop that restarts it.
func TestAClosedLibraryIsNotAsked(t *testing.T) {
	asked := 0
	call := func(handle, *byte) int32 { asked++; return statusOK }
	s := &smi{sym: &symbols{
		ASIC: call, VRAM: call, ECC: call,
		Temperature: func(handle, int32, int32, *int64) int32 { asked++; return statusOK },
		BadPages:    func(handle, *uint32, *byte) int32 { asked++; return statusOK },
		ShutDown:    func() int32 { return statusOK },
	}, handles: map[pciAddress]handle{{Bus: 1}: 1}}
	c := card{PCI: pciAddress{Bus: 1}}
	ask := func() {
		s.asic(c)
		s.vram(c)
		s.ecc(c)
		s.temperature(c, sensorEdge)
		s.badPages(c)
	}
	if ask(); asked != 5 {
		t.Fatalf("%d calls, want 5", asked)
	}
	s.close()
	if ask(); asked != 5 {
		t.Errorf("%d calls into a library that was shut down", asked-5)
	}
}
