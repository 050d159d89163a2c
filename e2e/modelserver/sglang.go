package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
)

// saver is SGLang's release of memory, including what crashes the engine: releasing memory while it
// works or twice, resuming memory that was not released, and a request in between. Weights that
// were not backed up are garbage until they are loaded again.
type saver struct {
	mu       sync.Mutex
	released bool
	noise    bool
	garbled  int // requests answered from garbage weights
	version  string
}

// used must be called for every request.
func (v *saver) used() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.noise {
		v.garbled++
	}
}

// memorySaver registers SGLang's endpoints.
func (s *server) memorySaver(mux *http.ServeMux) {
	answer := func(pattern string, what func(w http.ResponseWriter, body map[string]any)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if s.sleepMode.dead.Load() {
				refuse(w, http.StatusInternalServerError, "server_error", errDead)
				return
			}
			var body map[string]any
			if r.Method == http.MethodPost && r.ContentLength != 0 {
				if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&body); err != nil {
					refuse(w, http.StatusBadRequest, "invalid_request_error", err)
					return
				}
			}
			s.saver.mu.Lock()
			defer s.saver.mu.Unlock()
			what(w, body)
		})
	}
	answer("GET /model_info", func(w http.ResponseWriter, _ map[string]any) {
		reply(w, http.StatusOK, map[string]any{"model_path": s.model, "weight_version": s.saver.version,
			"is_generation": true})
	})
	answer("GET /server_info", func(w http.ResponseWriter, _ map[string]any) {
		reply(w, http.StatusOK, map[string]any{"model_path": s.model, "enable_memory_saver": s.options.saver,
			"enable_weights_cpu_backup": s.options.backup})
	})
	answer("POST /update_weight_version", s.updateVersion)
	answer("POST /release_memory_occupation", s.release)
	answer("POST /resume_memory_occupation", s.resume)
	answer("POST /update_weights_from_disk", func(w http.ResponseWriter, body map[string]any) {
		found := body["model_path"] == s.model
		if found {
			s.saver.noise = false
		}
		reply(w, http.StatusOK, map[string]any{"success": found,
			"message": fmt.Sprint("model_path ", body["model_path"])})
	})
}

func (s *server) updateVersion(w http.ResponseWriter, body map[string]any) {
	version, ok := body["new_version"].(string)
	if !ok {
		refuse(w, http.StatusBadRequest, "invalid_request_error", errors.New("new_version is missing"))
		return
	}
	if abort, given := body["abort_all_requests"].(bool); !given || abort {
		s.sleepMode.dead.Store(true) // affects requests just as badly here
	}
	s.saver.version = version
	reply(w, http.StatusOK, map[string]any{"success": true, "new_version": version})
}

// tagged reports whether a request names both kinds of memory. Other requests are not tested here.
func tagged(body map[string]any) bool {
	tags, _ := body["tags"].([]any)
	return len(tags) == 2 && slices.Contains(tags, any("kv_cache")) && slices.Contains(tags, any("weights"))
}

func (s *server) release(w http.ResponseWriter, body map[string]any) {
	if !tagged(body) {
		refuse(w, http.StatusBadRequest, "invalid_request_error", errors.New("tags: want kv_cache and weights"))
		return
	}
	busy := false
	if b := s.state.Load().backend; b != nil {
		o := b.occupancy()
		busy = o.running+o.waiting > 0
	}
	if busy || s.saver.released {
		s.sleepMode.dead.Store(true)
		refuse(w, http.StatusInternalServerError, "server_error", errDead)
		return
	}
	s.saver.released = true
	s.sleepMode.sleeping.Store(true)
	if err := s.keep(asleepKeeps); err != nil {
		refuse(w, http.StatusInternalServerError, "server_error", err)
	}
}

func (s *server) resume(w http.ResponseWriter, body map[string]any) {
	if !tagged(body) {
		refuse(w, http.StatusBadRequest, "invalid_request_error", errors.New("tags: want kv_cache and weights"))
		return
	}
	if !s.saver.released {
		s.sleepMode.dead.Store(true)
		refuse(w, http.StatusInternalServerError, "server_error", errDead)
		return
	}
	if err := s.keep(1); err != nil {
		refuse(w, http.StatusInternalServerError, "server_error", err)
		return
	}
	s.saver.released, s.saver.noise = false, !s.options.backup
	s.sleepMode.sleeping.Store(false)
}
