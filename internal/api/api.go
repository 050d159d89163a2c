// Package api is what a gateway's admin listener answers, and how a gateway is found:
// the types and names that the gateway, the autoscaler's plugins and the operator's
// tools share. Their JSON is an interface; docs/gateway.md describes it.
package api

import "time"

const (
	// GatewayService is the Consul service under which gateways register unless they
	// are configured otherwise.
	GatewayService = "aliquot-gateway"
	// MetaAdmin is the key of that service's meta that holds the address of the admin
	// listener.
	MetaAdmin = "admin"
)

// Concurrency is the answer of /v1/services/<service>/concurrency.
type Concurrency struct {
	Service     string    `json:"service"`
	Now         time.Time `json:"now"`
	StepSeconds int       `json:"step_seconds"`
	// Whole says that Series is of all gateways together, as gateways know that share
	// their queues; else it is of the one that answers.
	Whole bool `json:"whole,omitempty"`
	// Quantile is the part of the requests that the objective is promised to, 0 where there is none.
	Quantile float64 `json:"quantile,omitempty"`
	Series   []Point `json:"series"` // oldest first, without gaps
}

// Point is the time-weighted mean number of requests of one second.
type Point struct {
	Time   int64                 `json:"t"` // Unix second
	Queued float64               `json:"queued"`
	Active float64               `json:"active"`
	Class  map[string]ClassPoint `json:"class"`            // by hardware class
	Tokens *Tokens               `json:"tokens,omitempty"` // of a language model
	// QueuedTokens and ActiveTokens are the tokens of the requests to a language model: of
	// the prompt and of the answer so far, and while a request waits, or where its answer
	// is not seen as it comes, of half of the answer that is expected.
	QueuedTokens float64 `json:"queued_tokens,omitempty"`
	ActiveTokens float64 `json:"active_tokens,omitempty"`
}

// ClassPoint is the part of one hardware class.
type ClassPoint struct {
	Active float64 `json:"active"`
	Tokens float64 `json:"tokens,omitempty"` // of Point.ActiveTokens
}

// Service is one service in the answer of /v1/services.
type Service struct {
	Service string         `json:"service"`
	Queued  int            `json:"queued"`
	Active  map[string]int `json:"active"` // by hardware class
	// QueuedTokens and ActiveTokens are as in Point.
	QueuedTokens int            `json:"queued_tokens,omitempty"`
	ActiveTokens map[string]int `json:"active_tokens,omitempty"` // by hardware class
	// Owner is the gateway that decides for the service, by where it listens for the
	// others, in an Epoch; both are left out where gateways do not share their queues.
	Owner    string    `json:"owner,omitempty"`
	Epoch    uint64    `json:"epoch,omitempty"`
	Role     string    `json:"role,omitempty"` // of the gateway that answers
	Replicas []Replica `json:"replicas"`
	// Waits is who waits at which priority, as the gateway that decides knows it.
	Waits  []Wait  `json:"waits,omitempty"`
	Tokens *Tokens `json:"last_minute,omitempty"` // of a language model
	// Quantile is as in Concurrency.
	Quantile float64 `json:"quantile,omitempty"`
	// Starts are what is known of starts of its replicas, by hardware class.
	Starts map[string]ColdStart `json:"starts,omitempty"`
}

// Wait is how many requests of a tenant wait at a priority.
type Wait struct {
	Priority string `json:"priority"`
	Tenant   string `json:"tenant"` // "other" for all that are not configured
	Requests int    `json:"requests"`
}

// ColdStart is what starts of replicas on one hardware class take.
type ColdStart struct {
	// Count is how many starts it was learned from.
	Count int `json:"count"`
	// P95 is the 95th percentile of the time from the placement until the replica is
	// healthy, in seconds; 0 where too few starts are known.
	P95 float64 `json:"p95,omitempty"`
	// Parts are means in seconds: image, models, compile_cache, container, load and answer,
	// the first one after that.
	Parts map[string]float64 `json:"parts,omitempty"`
}

// Replica is one replica of a service.
type Replica struct {
	ID        string  `json:"id"`
	Class     string  `json:"class"`
	Slices    int     `json:"slices"`
	Slots     int     `json:"slots"`
	Usable    int     `json:"usable"` // slots that may be used now
	Active    int     `json:"active"`
	KV        int     `json:"kv_tokens,omitempty"`       // size of the engine's cache
	MaxPrompt int     `json:"max_model_len,omitempty"`   // longest prompt, in tokens
	InFlight  int     `json:"inflight_tokens,omitempty"` // of prompts and answers being served
	Rate      float64 `json:"rate"`                      // requests per second of one busy slot
	Ejected   bool    `json:"ejected,omitempty"`
	Probation bool    `json:"probation,omitempty"`
	Leaving   bool    `json:"leaving,omitempty"`
	// Sleep is "asleep", "waking", "drowsy" for one that is about to sleep, or "away" for
	// one that can be neither used nor woken for now; "" for one that is awake.
	Sleep string `json:"sleep,omitempty"`
}

// Awake is what PUT /v1/services/<service>/awake takes: how many replicas of a class
// are enough to stay awake.
type Awake struct {
	Class    string `json:"class"` // "" for all together
	Replicas int    `json:"replicas"`
	// For is for how long that holds, as a duration such as "10m"; a minute when empty.
	For string `json:"for,omitempty"`
}

// Tokens is the requests to a language model that ended in a span of time, and those that
// came. TTFT and TPOT are means in seconds, 0 while unknown.
type Tokens struct {
	// Arrived is the tokens of the requests that came, of prompts and expected answers.
	Arrived int64 `json:"arrived_tokens,omitempty"`

	Ended  int     `json:"ended"`
	Met    int     `json:"met"`    // within the service's objective
	Missed int     `json:"missed"` // not within it
	TTFT   float64 `json:"ttft,omitempty"`
	TPOT   float64 `json:"tpot,omitempty"`
	Prompt int64   `json:"prompt_tokens"`
	Cached int64   `json:"cached_tokens"` // the part of Prompt that was cached
	Output int64   `json:"output_tokens"`
}

// Add takes in what another gateway says of the same service and time.
func (t *Tokens) Add(o *Tokens) {
	n, m := float64(t.Ended), float64(o.Ended)
	if n+m > 0 {
		t.TTFT = (t.TTFT*n + o.TTFT*m) / (n + m)
		t.TPOT = (t.TPOT*n + o.TPOT*m) / (n + m)
	}
	t.Arrived += o.Arrived
	t.Ended += o.Ended
	t.Met += o.Met
	t.Missed += o.Missed
	t.Prompt += o.Prompt
	t.Cached += o.Cached
	t.Output += o.Output
}

// Requests is the answer of /v1/requests: of each service the slowest requests of each of
// the last minutes, and the last ones that failed, both the newest first.
type Requests struct {
	Now    time.Time `json:"now"`
	Slow   []Request `json:"slow"`
	Failed []Request `json:"failed"`
}

// Request is a request that ended, and where its time went. All times are in
// milliseconds; Received, Waited, Retried, Upstream and Answer add up to Total.
type Request struct {
	Service  string    `json:"service"`
	Began    time.Time `json:"began"`
	Outcome  string    `json:"outcome"`
	Status   int       `json:"status"`
	Tenant   string    `json:"tenant"` // "other" for one that is not configured
	Priority string    `json:"priority,omitempty"`
	Class    string    `json:"class"` // of the replica that served it last; "" for none
	Replica  string    `json:"replica"`
	Attempts int       `json:"attempts"`
	Total    float64   `json:"total_ms"`
	Received float64   `json:"received_ms"` // until its body was here and its service found
	Waited   float64   `json:"wait_ms"`     // for a slot
	Retried  float64   `json:"retried_ms"`  // attempts that were made in vain
	Upstream float64   `json:"upstream_ms"` // of the last attempt, until the answer began
	Answer   float64   `json:"answer_ms"`   // until the answer's end
	Prompt   int64     `json:"prompt_tokens,omitempty"`
	Output   int64     `json:"output_tokens,omitempty"`
}

// Latencies is the answer of /v1/services/<service>/latency: the requests that were
// served by the gateway that answers, by the second in which they ended.
type Latencies struct {
	Service string    `json:"service"`
	Now     time.Time `json:"now"`
	// Accuracy is by which part of itself a quantile may be off.
	Accuracy float64   `json:"accuracy"`
	Series   []Latency `json:"series"` // oldest first; seconds in which none ended are left out
}

// Latency is one second as sketches (internal/quantile), nil where nothing is known.
type Latency struct {
	Time  int64  `json:"t"` // Unix second
	Total []byte `json:"total,omitempty"`
	// Served is how many requests ended, by the hardware class that served them.
	Served map[string]int `json:"served,omitempty"`
	TTFT   []byte         `json:"ttft,omitempty"` // of a language model
	TPOT   []byte         `json:"tpot,omitempty"` // likewise
}

// Usage is the answer of /v1/usage.
type Usage struct {
	Since time.Time     `json:"since"` // when the gateway started
	Usage []TenantUsage `json:"usage"`
}

// TenantUsage is the tokens of one tenant at one service.
type TenantUsage struct {
	Service  string `json:"service"`
	Tenant   string `json:"tenant"`
	Requests int64  `json:"requests"`
	Prompt   int64  `json:"prompt_tokens"`
	Cached   int64  `json:"cached_tokens"` // the part of Prompt that was cached
	Output   int64  `json:"output_tokens"`
	// Estimated is how many of the requests have figures that no engine reported.
	Estimated int64 `json:"estimated_requests"`
}
