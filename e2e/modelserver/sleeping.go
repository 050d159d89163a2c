package main

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
)

// bed is the sleep of a server, with what vLLM's has been seen to do to who does not
// take care: a request to one that sleeps ends the engine, and so does putting one to
// sleep that works, which is answered with 200.
type bed struct {
	sleeping atomic.Bool
	dead     atomic.Bool
	memory   sync.Mutex // of the GPU, which one order at a time changes
}

var errDead = errors.New("the engine is dead")

// use is called by every request.
func (b *bed) use() error {
	if b.sleeping.Load() {
		b.dead.Store(true)
	}
	if b.dead.Load() {
		return errDead
	}
	return nil
}

// asleepKeeps is how many times more GPU memory an engine has awake than asleep, where
// contexts and graphs stay.
const asleepKeeps = 8

// keep gives memory of the GPU back, or takes it again with 1. An engine that finds none
// ends.
func (s *server) keep(parts int) error {
	s.bed.memory.Lock()
	defer s.bed.memory.Unlock()
	err := s.state.Load().hw.Keep(parts)
	if err != nil {
		s.bed.dead.Store(true)
	}
	return err
}

func (s *server) sleep(w http.ResponseWriter, r *http.Request) {
	if level := r.FormValue("level"); level != "" && level != "1" && level != "2" {
		refuse(w, http.StatusBadRequest, "invalid_request_error", errors.New("level: want 1 or 2"))
		return
	}
	if b := s.state.Load().backend; b != nil {
		if o := b.occupancy(); o.running+o.waiting > 0 {
			s.bed.dead.Store(true)
		}
	}
	s.bed.sleeping.Store(true)
	if err := s.keep(asleepKeeps); err != nil {
		refuse(w, http.StatusInternalServerError, "server_error", err)
	}
}

func (s *server) wakeUp(w http.ResponseWriter, r *http.Request) {
	if wait(r.Context(), s.options.wakes) != nil {
		return
	}
	if err := s.keep(1); err != nil {
		refuse(w, http.StatusInternalServerError, "server_error", err)
		return
	}
	s.bed.sleeping.Store(false)
}

func (s *server) isSleeping(w http.ResponseWriter, _ *http.Request) {
	if s.bed.dead.Load() {
		refuse(w, http.StatusInternalServerError, "server_error", errDead)
		return
	}
	reply(w, http.StatusOK, map[string]bool{"is_sleeping": s.bed.sleeping.Load()})
}
