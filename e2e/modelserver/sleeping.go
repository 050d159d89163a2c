package main

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
)

// sleepMode is the sleep mode of a server, with vLLM's observed failures: a request to a sleeping server
// crashes the engine. So does putting a working server to sleep, although that is answered with
// 200.
type sleepMode struct {
	sleeping atomic.Bool
	dead     atomic.Bool
	memory   sync.Mutex // guards GPU memory, which one sleep or wake request changes at a time
}

var errDead = errors.New("the engine is dead")

// use must be called for every request.
func (m *sleepMode) use() error {
	if m.sleeping.Load() {
		m.dead.Store(true)
	}
	if m.dead.Load() {
		return errDead
	}
	return nil
}

// asleepKeeps is the ratio of an engine's GPU memory awake to its GPU memory asleep, which still
// holds contexts and graphs.
const asleepKeeps = 8

// keep reduces GPU memory to 1/parts; 1 takes all of it again. The engine exits if there is not
// enough memory.
func (s *server) keep(parts int) error {
	s.sleepMode.memory.Lock()
	defer s.sleepMode.memory.Unlock()
	err := s.state.Load().hw.Keep(parts)
	if err != nil {
		s.sleepMode.dead.Store(true)
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
			s.sleepMode.dead.Store(true)
		}
	}
	s.sleepMode.sleeping.Store(true)
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
	s.sleepMode.sleeping.Store(false)
}

func (s *server) isSleeping(w http.ResponseWriter, _ *http.Request) {
	if s.sleepMode.dead.Load() {
		refuse(w, http.StatusInternalServerError, "server_error", errDead)
		return
	}
	reply(w, http.StatusOK, map[string]bool{"is_sleeping": s.sleepMode.sleeping.Load()})
}
