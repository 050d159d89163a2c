package gateway

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
)

// rateStore is a store of rates that cannot be read for a while.
type rateStore struct {
	refuses  int
	loads    int
	profiles map[string]uint64
}

func (s *rateStore) Load(context.Context, string) (map[string]dispatch.Rate, error) {
	if s.loads++; s.loads <= s.refuses {
		return nil, errors.New("no leader")
	}
	return map[string]dispatch.Rate{"h100": {Rate: 3, Slots: 1, Samples: 50}}, nil
}

func (s *rateStore) Profiles(context.Context) (map[string]uint64, error) { return s.profiles, nil }

func (s *rateStore) Save(context.Context, string, map[string]dispatch.Rate, time.Time) error {
	return nil
}

func TestLearnedRatesAreReadUntilTheyAreThere(t *testing.T) {
	store := &rateStore{refuses: 2}
	s := &Server{log: slog.New(slog.DiscardHandler), options: Options{Rates: store}}
	v := &service{name: "m", line: line.New(line.Options{Policy: dispatch.Policy{Placements: []dispatch.Placement{{}}, Priorities: 1}})}
	s.plan.Store(&plan{services: []*service{v}})
	saved := publishedRates{}
	for range 5 {
		s.publishRates(t.Context(), saved)
	}
	if store.loads != 3 {
		t.Errorf("read %d times with two failures, want 3", store.loads)
	}
	if len(saved) != 1 {
		t.Errorf("%d lines are known, want 1", len(saved))
	}
	other := &service{name: "m", line: line.New(line.Options{Policy: dispatch.Policy{Placements: []dispatch.Placement{{}}, Priorities: 1}})}
	s.plan.Store(&plan{services: []*service{other}})
	s.publishRates(t.Context(), saved)
	if _, held := saved[v.line]; held || len(saved) != 1 {
		t.Errorf("%d lines are held after the service changed, the old one: %v", len(saved), held)
	}
}

// A profile that is new is read once, and only for its service.
func TestNewProfilesAreTaken(t *testing.T) {
	store := &rateStore{}
	s := &Server{log: slog.New(slog.DiscardHandler), options: Options{Rates: store}}
	one := func(name string) *service {
		return &service{name: name, line: line.New(line.Options{Policy: dispatch.Policy{Placements: []dispatch.Placement{{}}, Priorities: 1}})}
	}
	s.plan.Store(&plan{services: []*service{one("chat"), one("other")}})
	store.profiles = map[string]uint64{"chat": 7}
	known := s.takeProfiles(t.Context(), nil)
	if store.loads != 0 {
		t.Errorf("at the start %d services were read, which the lines do themselves", store.loads)
	}
	store.profiles = map[string]uint64{"chat": 8, "elsewhere": 9}
	store.refuses = 1 // Consul is away for one look
	known = s.takeProfiles(t.Context(), known)
	for range 3 {
		known = s.takeProfiles(t.Context(), known)
	}
	if store.loads != 2 || known["chat"] != 8 {
		t.Errorf("read %d times, known %v; want once more after a failure", store.loads, known)
	}
}

// A token that may read no profile at the start may be allowed to later.
func TestProfilesThatMayBeReadLaterAreTaken(t *testing.T) {
	store := &rateStore{}
	s := &Server{log: slog.New(slog.DiscardHandler), options: Options{Rates: store}}
	v := &service{name: "chat", line: line.New(line.Options{Policy: dispatch.Policy{Placements: []dispatch.Placement{{}}, Priorities: 1}})}
	s.plan.Store(&plan{services: []*service{v}})
	known := s.takeProfiles(t.Context(), nil)
	store.profiles = map[string]uint64{"chat": 7}
	if known = s.takeProfiles(t.Context(), known); store.loads != 1 || known["chat"] != 7 {
		t.Errorf("read %d times, known %v; want once", store.loads, known)
	}
}
