package hubtest

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// send sends a file or a range of it, with the failures that the test set.
func (h *Hub) send(w http.ResponseWriter, r *http.Request, name string, body []byte) {
	h.note(func() { h.Sending++ })
	defer h.note(func() { h.Sending-- })
	h.mu.Lock()
	stall, cut, corrupt := h.Stall, 0, h.Corrupt
	if h.Cuts > 0 {
		h.Cuts--
		cut = h.Cut
	}
	h.mu.Unlock()
	from, to := 0, len(body)
	status := http.StatusOK
	if spec, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		first, last, _ := strings.Cut(spec, "-")
		from, _ = strconv.Atoi(first)
		if end, err := strconv.Atoi(last); err == nil {
			to = min(to, end+1)
		}
		if from >= to {
			http.Error(w, "the range is beyond the file", http.StatusRequestedRangeNotSatisfiable)
			return
		}
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, len(body)))
	}
	w.Header().Set("Content-Length", strconv.Itoa(to-from))
	w.WriteHeader(status)
	_ = http.NewResponseController(w).Flush()
	if stall != nil {
		select {
		case <-stall:
		case <-r.Context().Done():
			return
		case <-time.After(time.Minute):
			return
		}
	}
	out := body[from:to]
	if corrupt && len(out) > 0 {
		out = append([]byte(nil), out...)
		out[len(out)/2] ^= 1
	}
	if cut > 0 && cut < len(out) {
		out = out[:cut]
	}
	n, _ := w.Write(out)
	h.note(func() { h.read[name] += int64(n) })
	if cut > 0 {
		panic(http.ErrAbortHandler)
	}
}
