package match

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"aliquot.example/gateway/config"
)

// The headers with which a request describes itself.
const (
	HeaderBatch    = "X-Batch-Size"      // items in the request, a whole number
	HeaderPrompt   = "X-Prompt-Tokens"   // length of the prompt in tokens
	HeaderCost     = "X-Request-Cost"    // work, in a unit that is the same for all requests
	HeaderTimeout  = "X-Request-Timeout" // time until the answer is useless: "1.5" (seconds) or "1500ms"
	HeaderPriority = "X-Priority"        // name of a priority
)

// Facts are the declarations of a request. A missing number is -1.
type Facts struct {
	Batch, Prompt int64
	Cost          float64
	Timeout       time.Duration
	Priority      string
}

// bytesPerToken converts the size of a body to the length of its prompt if the client does not
// declare it. A token is about four bytes of English text.
const bytesPerToken = 4

// FactsOf reads the headers with which a request describes itself. Its error is for the client.
func FactsOf(r *http.Request) (Facts, error) {
	f := Facts{Batch: -1, Prompt: -1, Cost: -1, Timeout: -1}
	h := r.Header
	f.Priority = first(h, HeaderPriority)
	var err error
	if v := first(h, HeaderBatch); v != "" {
		f.Batch, err = whole(HeaderBatch, v)
	}
	if v := first(h, HeaderPrompt); v != "" && err == nil {
		f.Prompt, err = whole(HeaderPrompt, v)
	} else if r.ContentLength > 0 {
		f.Prompt = r.ContentLength / bytesPerToken
	}
	if v := first(h, HeaderCost); v != "" && err == nil {
		f.Cost, err = strconv.ParseFloat(v, 64)
		if err != nil || !(f.Cost > 0 && f.Cost <= 1e12) {
			err = fmt.Errorf("header %s is %q: want a positive number", HeaderCost, clip(v))
		}
	}
	if v := first(h, HeaderTimeout); v != "" && err == nil {
		f.Timeout, err = timeout(v)
	} else if v := first(h, "Grpc-Timeout"); v != "" && err == nil {
		f.Timeout, err = grpcTimeout(v)
	}
	return f, err
}

// first is like h.Get, for a name in canonical form.
func first(h http.Header, name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func clip(s string) string { return s[:min(len(s), 40)] }

func whole(name, v string) (int64, error) {
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return -1, fmt.Errorf("header %s is %q: want a whole number", name, clip(v))
	}
	return n, nil
}

func timeout(v string) (time.Duration, error) {
	if s, err := strconv.ParseFloat(v, 64); err == nil && s > 0 && s < 1e6 {
		return time.Duration(s * float64(time.Second)), nil
	}
	if d, err := time.ParseDuration(v); err == nil && d > 0 {
		return d, nil
	}
	return -1, fmt.Errorf("header %s is %q: want seconds or a duration such as \"1500ms\"", HeaderTimeout, clip(v))
}

// grpcTimeout parses the Grpc-Timeout header: up to eight digits and a unit.
func grpcTimeout(v string) (time.Duration, error) {
	units := map[byte]time.Duration{'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond,
		'u': time.Microsecond, 'n': time.Nanosecond}
	if len(v) >= 2 && len(v) <= 9 {
		n, err := strconv.ParseUint(v[:len(v)-1], 10, 64)
		if unit := units[v[len(v)-1]]; err == nil && unit > 0 && n <= uint64(100*24*time.Hour/unit) {
			return time.Duration(n) * unit, nil
		}
	}
	return -1, fmt.Errorf("header Grpc-Timeout is %q: want up to eight digits and one of H M S m u n", clip(v))
}

// Placement returns the index of the first matching rule, counted from 1, or 0 if none matches.
func Placement(rules []config.Rule, f *Facts) int {
	for i := range rules {
		r := &rules[i]
		if within(f.Batch, r.MinBatch, r.MaxBatch) && within(f.Prompt, r.MinPrompt, r.MaxPrompt) &&
			within(f.Cost, r.MinCost, r.MaxCost) {
			return i + 1
		}
	}
	return 0
}

// within reports whether a value is within limits. A limit of 0 means none. A missing value is not
// within any limits.
func within[T int64 | float64](v, low, high T) bool {
	if low == 0 && high == 0 {
		return true
	}
	return v >= 0 && v >= low && (high == 0 || v <= high)
}
