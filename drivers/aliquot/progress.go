package aliquot

import (
	"fmt"
	"strconv"
	"strings"

	"aliquot.example/internal/cacheapi"
)

// progress reports the progress of models in events. Nomad keeps only the last ten events of a task, so
// there are events only at the start, at each quarter and at the end.
type progress struct {
	logged int // quarters, and one more for the start
	// before is the number of bytes that were present at the first call.
	before  int64
	started float64
}

// event returns the message and annotations of an event, or "" if there is nothing new.
func (p *progress) event(models []cacheapi.Model) (message string, notes map[string]string) {
	var got, total int64
	var seconds float64
	peers := 0
	for _, m := range models {
		got, total = got+m.Bytes, total+m.Total
		peers, seconds = max(peers, m.Peers), max(seconds, m.Seconds)
	}
	step := 1
	if total > 0 {
		step += int(4 * got / total)
	}
	if whole(models) {
		step = 6
	} else {
		step = min(step, 4) // all bytes have arrived, or some of them twice, but are not verified
	}
	if p.logged == 0 {
		p.before, p.started = got, seconds
	}
	if step <= p.logged {
		return "", nil
	}
	p.logged = step
	what := models[0].Model
	if len(models) > 1 {
		what = fmt.Sprintf("%d models", len(models))
	}
	notes = map[string]string{"model_bytes": strconv.FormatInt(got, 10), "model_bytes_total": strconv.FormatInt(total,
		10), "model_peers": strconv.Itoa(peers)}
	rate := ""
	if took := seconds - p.started; took > 0.1 && got > p.before {
		rate = fmt.Sprintf(", %s/s", size(float64(got-p.before)/took))
	}
	if peers > 0 {
		rate += fmt.Sprintf(", from %d peers", peers)
	}
	if step == 6 {
		return fmt.Sprintf("model %s is on the node: %s%s", what, size(float64(total)), rate), notes
	}
	return fmt.Sprintf("model %s: %s of %s%s", what,
		strings.TrimSuffix(size(float64(got)), unitOf(float64(got), float64(total))), size(float64(total)), rate), notes
}

var sizes = []struct {
	unit  string
	bytes float64
}{{" GB", 1e9}, {" MB", 1e6}, {" kB", 1e3}}

// size writes a number of bytes as "3.1 GB".
func size(n float64) string {
	for _, s := range sizes {
		if n >= s.bytes {
			digits := 0
			if n < 100*s.bytes {
				digits = 1
			}
			return strconv.FormatFloat(n/s.bytes, 'f', digits, 64) + s.unit
		}
	}
	return strconv.FormatFloat(n, 'f', 0, 64) + " B"
}

// unitOf returns the unit of both numbers, or "" if their units differ.
func unitOf(a, b float64) string {
	_, x, _ := strings.Cut(size(a), " ")
	_, y, _ := strings.Cut(size(b), " ")
	if x != y {
		return ""
	}
	return " " + x
}
