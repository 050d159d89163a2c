package ui

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"aliquot.example/ui/view"
)

// streamTimeout is the longest time for a browser to accept one event.
const streamTimeout = 20 * time.Second

// maxStreams limits the open streams of all browsers.
const maxStreams = 500

// comment is the interval of "alive" events on an idle stream, which detect a closed connection.
const comment = 15 * time.Second

// serveStream sends a view as server-sent events whenever it changes: "view" contains the whole view,
// "series" the new seconds of a service, and "outlook" the replayed decisions of its policies.
func (s *Server) serveStream(w http.ResponseWriter, r *http.Request) {
	name, service := r.FormValue("view"), r.FormValue("service")
	make, ok := views[name]
	if !ok {
		answer(w, http.StatusBadRequest, problem{"no such view"})
		return
	}
	if s.streams.Add(1) > maxStreams {
		s.streams.Add(-1)
		answer(w, http.StatusServiceUnavailable, problem{"too many browsers have this page open: close one"})
		return
	}
	defer s.streams.Add(-1)
	after, _ := strconv.ParseInt(r.FormValue("after"), 10, 64)
	release := s.watch.Follow(name, service)
	defer release()
	w.Header().Set("Content-Type", "text/event-stream")
	st := stream{w: w, c: http.NewResponseController(w), after: after}
	alive := time.NewTicker(comment)
	defer alive.Stop()
	for {
		facts, changed := s.watch.Facts()
		text, err := s.drawings.of(name+" "+service, changed, func() any { return make(facts, service) })
		if err != nil || st.show(text) != nil {
			return
		}
		if err := s.addService(&st, name, service); err != nil {
			return
		}
		if !s.awaitChange(r, &st, changed, alive.C) {
			return
		}
	}
}

// awaitChange returns true when a frame is over and the facts have changed, or it is time for
// a sign of life, which it sends; false when the stream is to end.
func (s *Server) awaitChange(r *http.Request, st *stream, changed <-chan struct{}, alive <-chan time.Time) bool {
	select {
	case <-r.Context().Done():
		return false
	case <-s.ctx.Done():
		return false
	case <-time.After(frame):
	}
	select {
	case <-changed:
		return true
	case <-alive:
		return st.send("alive", []byte("{}")) == nil && s.authorizer.of(r).open
	case <-r.Context().Done():
		return false
	case <-s.ctx.Done():
		return false
	}
}

// addService sends the new part of a service's series or outlook.
func (s *Server) addService(st *stream, name, service string) error {
	switch {
	case service == "":
		return nil
	case name == view.ScalingView:
		return st.judge(s.watch.Outlook(service))
	}
	return st.extend(s.watch.Series(service, st.after))
}

// stream is one browser's stream.
type stream struct {
	w     http.ResponseWriter
	c     *http.ResponseController
	last  []byte // last view sent
	after int64  // last second sent
	// outlook is the last outlook sent.
	outlook *view.Outlook
}

func (s *stream) show(text []byte) error {
	if bytes.Equal(text, s.last) {
		return nil
	}
	s.last = text
	return s.send("view", text)
}

func (s *stream) extend(series view.Series) error {
	n := len(series.Time)
	if n == 0 {
		return nil
	}
	text, err := json.Marshal(series)
	if err != nil {
		return err
	}
	s.after = series.Time[n-1]
	return s.send("series", text)
}

func (s *stream) judge(o *view.Outlook) error {
	if o == nil || o == s.outlook {
		return nil
	}
	s.outlook = o
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	return s.send("outlook", text)
}

func (s *stream) send(event string, text []byte) error {
	_ = s.c.SetWriteDeadline(time.Now().Add(streamTimeout))
	if _, err := fmt.Fprintf(s.w, "event: %s\ndata: %s\n\n", event, text); err != nil {
		return err
	}
	return s.c.Flush()
}
