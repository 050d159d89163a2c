package main

import (
	"errors"
	"fmt"
	"net/http"
)

// infer answers one inference in version 2 of KServe's protocol, which Triton speaks: the work of
// one token, and one number as output.
func (s *server) infer(w http.ResponseWriter, r *http.Request) {
	code := s.inferred(w, r)
	s.metrics.requests.WithLabelValues(fmt.Sprint(code)).Inc()
}

func (s *server) inferred(w http.ResponseWriter, r *http.Request) int {
	fail := func(code int, err error) int {
		reply(w, code, map[string]string{"error": err.Error()})
		return code
	}
	state := s.state.Load()
	if reason := state.unready(); reason != "" {
		return fail(http.StatusServiceUnavailable, errors.New(reason))
	}
	if model := r.PathValue("model"); model != s.model {
		return fail(http.StatusNotFound, fmt.Errorf("the repository holds %q, not %q", s.model, model))
	}
	work, err := state.backend.accept(r.Context(), job{prompt: 0, output: 1})
	switch {
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", "1")
		return fail(http.StatusServiceUnavailable, err)
	case err != nil:
		return clientGone
	}
	defer work.end()
	if err := work.run(r.Context(), func(int) error { return nil }); err != nil {
		return clientGone
	}
	reply(w, http.StatusOK, map[string]any{
		"model_name": s.model,
		"outputs":    []map[string]any{{"name": "output", "datatype": "FP32", "shape": []int{1}, "data": []float64{1}}},
	})
	return http.StatusOK
}
