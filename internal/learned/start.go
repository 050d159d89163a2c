package learned

import (
	"cmp"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"time"
)

// StartsPrefix is the folder of the Starts of all services. The rest of a key is the service's
// name.
const StartsPrefix = "aliquot/coldstart/"

const (
	// keptStarts is the number of starts in a document, newest last.
	keptStarts = 64
	// enoughStarts is the number of starts of a class that are needed to believe them.
	enoughStarts = 3
	// MaxStart is the longest start that is believed.
	MaxStart = time.Hour
)

// StartParts are the parts of a start in order: pulling the image, additional time for models,
// fetching a compile cache from an earlier start, starting the container, and from there until the
// task is ready.
var StartParts = []string{"image", "models", "compile_cache", "container", "load"}

// Start is one start of a replica.
type Start struct {
	At    time.Time `json:"at"`
	Class string    `json:"class"`
	// Seconds is the time from its placement until Consul reported it healthy.
	Seconds float64 `json:"seconds"`
	// Parts are seconds by part, as the task driver reports them; nil if it does not.
	// The rest of Seconds is Nomad's and Consul's.
	Parts map[string]float64 `json:"parts,omitempty"`
}

// Starts is what is known about the starts of one service. It is the value of its key.
type Starts struct {
	Version int     `json:"version"`
	Samples []Start `json:"samples"`
}

// ErrStarts means that a document has another version, or is not such a document.
var ErrStarts = errors.New("it does not hold starts of this release")

// ParseStarts decodes a document.
func ParseStarts(text []byte) (Starts, error) {
	var doc Starts
	if err := json.Unmarshal(text, &doc); err != nil || doc.Version != version {
		return Starts{Version: version}, ErrStarts
	}
	return doc, nil
}

// Add adds starts to the document and removes the oldest.
func (s *Starts) Add(more ...Start) {
	s.Version = version
	s.Samples = append(s.Samples, more...)
	s.Samples = s.Samples[max(0, len(s.Samples)-keptStarts):]
}

// ColdStart is what is known about the starts on one hardware class.
type ColdStart struct {
	// Count is the number of starts behind it.
	Count int `json:"count"`
	// P95 is the 95th percentile in seconds; 0 if there are too few starts.
	P95 float64 `json:"p95,omitempty"`
	// Parts are means in seconds, over the starts for which the driver reported parts.
	Parts map[string]float64 `json:"parts,omitempty"`
}

// ByClass returns what is known about each class. It ignores impossible samples.
func (s Starts) ByClass(now time.Time) map[string]ColdStart {
	of := map[string][]Start{}
	for _, start := range s.Samples {
		if age := now.Sub(start.At); age.Abs() < Believed && start.Seconds > 0 &&
			start.Seconds < MaxStart.Seconds() {
			of[start.Class] = append(of[start.Class], start)
		}
	}
	out := map[string]ColdStart{}
	for class, starts := range of {
		c := ColdStart{Count: len(starts), Parts: meanParts(starts)}
		if c.Count >= enoughStarts {
			slices.SortFunc(starts, func(a, b Start) int { return cmp.Compare(a.Seconds, b.Seconds) })
			c.P95 = starts[min(c.Count-1, (c.Count*95+99)/100-1)].Seconds
		}
		out[class] = c
	}
	return out
}

// meanParts returns the means of the parts, over starts that have parts. A part that is missing in
// a start took no time.
func meanParts(starts []Start) map[string]float64 {
	sums, n := map[string]float64{}, 0.0
	for _, s := range starts {
		if len(s.Parts) == 0 {
			continue
		}
		n++
		for _, part := range StartParts {
			if seconds, ok := s.Parts[part]; ok && seconds >= 0 && seconds < MaxStart.Seconds() {
				sums[part] += seconds
			}
		}
	}
	if n == 0 {
		return nil
	}
	for part := range sums {
		sums[part] /= n
	}
	return sums
}

// P95 returns the 95th percentile of the starts on the slowest class with enough starts, so that
// all classes of a service are scaled by one value. ok is false if no class has enough.
func (s Starts) P95(now time.Time) (p95 time.Duration, ok bool) {
	slowest := 0.0
	for _, c := range s.ByClass(now) {
		slowest = max(slowest, c.P95)
	}
	return time.Duration(slowest * float64(time.Second)).Round(time.Second), slowest > 0
}

// noteOf returns the name of a part in the annotations of a task event.
func noteOf(part string) string { return "start_" + part + "_seconds" }

// NotePart writes a part into the annotations of a task event.
func NotePart(notes map[string]string, part string, seconds float64) {
	notes[noteOf(part)] = strconv.FormatFloat(seconds, 'f', 3, 64)
}

// PartsIn reads the parts that the task driver wrote into the annotations of an event. It returns
// nil if there are none.
func PartsIn(notes map[string]string) (parts map[string]float64) {
	for _, part := range StartParts {
		seconds, err := strconv.ParseFloat(notes[noteOf(part)], 64)
		if err != nil || !(seconds >= 0 && seconds < 1e9) {
			continue
		}
		if parts == nil {
			parts = map[string]float64{}
		}
		parts[part] = seconds
	}
	return parts
}

// StartsKey returns the key of a service's document.
func StartsKey(service string) string { return StartsPrefix + service }
