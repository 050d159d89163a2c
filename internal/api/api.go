// Package api defines the types of a gateway's admin API and the names by which clients find
// gateways. The gateway, the autoscaler's plugins and the operator's tools share them. Their JSON is
// a public interface; docs/gateway.md describes it.
package api

import "time"

const (
	// GatewayService is the default Consul service of gateways.
	GatewayService = "aliquot-gateway"
	// MetaAdmin is the key of that service's meta with the address of the admin listener.
	MetaAdmin = "admin"
)

// Concurrency is the response of /v1/services/<service>/concurrency.
type Concurrency struct {
	Service     string    `json:"service"`
	Now         time.Time `json:"now"`
	StepSeconds int       `json:"step_seconds"`
	// Whole reports whether Series covers all gateways, which needs gateways that share their
	// queues. Otherwise it covers only the responding gateway.
	Whole bool `json:"whole,omitempty"`
	// Quantile is the share of requests that have to meet the objective, 0 without an objective.
	Quantile float64 `json:"quantile,omitempty"`
	Series   []Point `json:"series"` // oldest first, without gaps
}

// Point is the time-weighted mean number of requests in one second.
type Point struct {
	Time   int64                 `json:"t"` // Unix second
	Queued float64               `json:"queued"`
	Active float64               `json:"active"`
	Class  map[string]ClassPoint `json:"class"`            // by hardware class
	Tokens *Tokens               `json:"tokens,omitempty"` // only of a language model
	// QueuedTokens and ActiveTokens are the tokens of the requests to a language model: those of the
	// prompt and of the answer so far. While a request waits, or if its answer does not stream, half
	// of the expected answer counts instead.
	QueuedTokens float64 `json:"queued_tokens,omitempty"`
	ActiveTokens float64 `json:"active_tokens,omitempty"`
}

// ClassPoint is the part of a Point on one hardware class.
type ClassPoint struct {
	Active float64 `json:"active"`
	Tokens float64 `json:"tokens,omitempty"` // part of Point.ActiveTokens
}

// Service is one service in the response of /v1/services.
type Service struct {
	Service string         `json:"service"`
	Queued  int            `json:"queued"`
	Active  map[string]int `json:"active"` // by hardware class
	// QueuedTokens and ActiveTokens have the same meaning as in Point.
	QueuedTokens int            `json:"queued_tokens,omitempty"`
	ActiveTokens map[string]int `json:"active_tokens,omitempty"` // by hardware class
	// Owner is the peer address of the gateway that dispatches the service's requests in this Epoch.
	// Both are omitted if gateways do not share their queues.
	Owner    string    `json:"owner,omitempty"`
	Epoch    uint64    `json:"epoch,omitempty"`
	Role     string    `json:"role,omitempty"` // of the responding gateway
	Replicas []Replica `json:"replicas"`
	// Waits are the waiting requests by priority and tenant. Only the dispatching gateway knows all.
	Waits  []Wait  `json:"waits,omitempty"`
	Tokens *Tokens `json:"last_minute,omitempty"` // only of a language model
	// Quantile has the same meaning as in Concurrency.
	Quantile float64 `json:"quantile,omitempty"`
	// Starts are the learned cold starts of its replicas by hardware class.
	Starts map[string]ColdStart `json:"starts,omitempty"`
}

// Wait is the number of requests of a tenant that wait at a priority.
type Wait struct {
	Priority string `json:"priority"`
	Tenant   string `json:"tenant"` // "other" for all tenants without configuration
	Requests int    `json:"requests"`
}

// ColdStart is the duration of replicas' starts on one hardware class.
type ColdStart struct {
	// Count is the number of starts from which it was learned.
	Count int `json:"count"`
	// P95 is the 95th percentile of the time from the placement until the replica is healthy, in
	// seconds, 0 if too few starts are known.
	P95 float64 `json:"p95,omitempty"`
	// Parts are mean seconds by part: image, models, compile_cache, container, load, and answer for
	// the first answer.
	Parts map[string]float64 `json:"parts,omitempty"`
}

// Replica is one replica of a service.
type Replica struct {
	ID        string  `json:"id"`
	Class     string  `json:"class"`
	Slices    int     `json:"slices"`
	Slots     int     `json:"slots"`
	Usable    int     `json:"usable"` // slots that are usable now
	Active    int     `json:"active"`
	KV        int     `json:"kv_tokens,omitempty"`       // size of the engine's cache
	MaxPrompt int     `json:"max_model_len,omitempty"`   // longest prompt, in tokens
	InFlight  int     `json:"inflight_tokens,omitempty"` // tokens of the prompts and answers in progress
	Rate      float64 `json:"rate"`                      // requests per second of one busy slot
	Ejected   bool    `json:"ejected,omitempty"`
	Probation bool    `json:"probation,omitempty"`
	Leaving   bool    `json:"leaving,omitempty"`
	// Sleep is "asleep", "waking", "drowsy" for a replica that is about to sleep, "away" for one that
	// can be neither used nor woken now, or "" for one that is awake.
	Sleep string `json:"sleep,omitempty"`
}

// Awake is the body of PUT /v1/services/<service>/awake: how many replicas of a class should be
// awake.
type Awake struct {
	Class    string `json:"class"` // "" for all classes together
	Replicas int    `json:"replicas"`
	// For is the time for which this applies, as a duration such as "10m"; "" means one minute.
	For string `json:"for,omitempty"`
}

// Tokens describes the requests to a language model that ended in a period. TTFT and TPOT are means
// in seconds, 0 while unknown.
type Tokens struct {
	// Arrived is the number of tokens, of prompts and expected answers, of the requests that arrived
	// in the period.
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

// Add adds the figures of another gateway for the same service and period.
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

// Requests is the response of /v1/requests: for each service the slowest requests of each of the last
// minutes and the last failed requests, both with the newest first.
type Requests struct {
	Now    time.Time `json:"now"`
	Slow   []Request `json:"slow"`
	Failed []Request `json:"failed"`
}

// Request is a finished request and how long its parts took, in milliseconds. Received, Waited,
// Retried, Upstream and Answer add up to Total.
type Request struct {
	Service  string    `json:"service"`
	Began    time.Time `json:"began"`
	Outcome  string    `json:"outcome"`
	Status   int       `json:"status"`
	Tenant   string    `json:"tenant"` // "other" for a tenant without configuration
	Priority string    `json:"priority,omitempty"`
	Class    string    `json:"class"` // of the last replica, "" for none
	Replica  string    `json:"replica"`
	Attempts int       `json:"attempts"`
	Total    float64   `json:"total_ms"`
	Received float64   `json:"received_ms"` // until the body was read and the service found
	Waited   float64   `json:"wait_ms"`     // for a slot
	Retried  float64   `json:"retried_ms"`  // failed attempts
	Upstream float64   `json:"upstream_ms"` // last attempt, until the answer began
	Answer   float64   `json:"answer_ms"`   // until the answer's end
	Prompt   int64     `json:"prompt_tokens,omitempty"`
	Output   int64     `json:"output_tokens,omitempty"`
}

// Latencies is the response of /v1/services/<service>/latency: the requests that the responding
// gateway served, by the second in which they ended.
type Latencies struct {
	Service string    `json:"service"`
	Now     time.Time `json:"now"`
	// Accuracy is the largest relative error of a quantile.
	Accuracy float64   `json:"accuracy"`
	Series   []Latency `json:"series"` // oldest first; seconds without ended requests are omitted
}

// Latency has the sketches (internal/quantile) of one second, nil for an empty sketch.
type Latency struct {
	Time  int64  `json:"t"` // Unix second
	Total []byte `json:"total,omitempty"`
	// Served is the number of ended requests by hardware class.
	Served map[string]int `json:"served,omitempty"`
	TTFT   []byte         `json:"ttft,omitempty"` // only of a language model
	TPOT   []byte         `json:"tpot,omitempty"` // only of a language model
}

// Usage is the response of /v1/usage.
type Usage struct {
	Since time.Time     `json:"since"` // when the gateway started
	Usage []TenantUsage `json:"usage"`
}

// TenantUsage is the use of one service by one tenant.
type TenantUsage struct {
	Service  string `json:"service"`
	Tenant   string `json:"tenant"`
	Requests int64  `json:"requests"`
	Prompt   int64  `json:"prompt_tokens"`
	Cached   int64  `json:"cached_tokens"` // the part of Prompt that was cached
	Output   int64  `json:"output_tokens"`
	// Estimated is the number of requests for which the engine reported no usage.
	Estimated int64 `json:"estimated_requests"`
}
