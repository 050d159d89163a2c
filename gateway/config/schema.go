package config

import "github.com/hashicorp/hcl/v2"

// The structs of this file are the grammar of the configuration file. Durations and sizes are
// attributes, so that an error names the line.

type fileBody struct {
	AccessLog  *string        `hcl:"access_log"`
	LogLevel   *hcl.Attribute `hcl:"log_level"`
	Priorities []string       `hcl:"priorities,optional"`
	Listen     *listenBody    `hcl:"listen,block"`
	Admin      *adminBody     `hcl:"admin,block"`
	Drain      *drainBody     `hcl:"drain,block"`
	Consul     *consulBody    `hcl:"consul,block"`
	Nomad      *nomadBody     `hcl:"nomad,block"`
	Peers      *peersBody     `hcl:"peers,block"`
	Tenants    *tenantsBody   `hcl:"tenants,block"`
	Services   []serviceBody  `hcl:"service,block"`
}

type listenBody struct {
	Address        string         `hcl:"address"`
	Server         *hcl.Attribute `hcl:"server"`
	MaxConnections *int           `hcl:"max_connections"`
	MaxHeader      *hcl.Attribute `hcl:"max_header"`
	MaxBody        *hcl.Attribute `hcl:"max_body"`
	HeaderTimeout  *hcl.Attribute `hcl:"header_timeout"`
	IdleTimeout    *hcl.Attribute `hcl:"idle_timeout"`
	BodyTimeout    *hcl.Attribute `hcl:"body_timeout"`
	WriteTimeout   *hcl.Attribute `hcl:"write_timeout"`
	BodyBuffer     *hcl.Attribute `hcl:"body_buffer"`
	BodyMemory     *hcl.Attribute `hcl:"body_memory"`
	BodyOverflow   *hcl.Attribute `hcl:"body_overflow"`
	BodyDisk       *hcl.Attribute `hcl:"body_disk"`
	BodyDir        *string        `hcl:"body_dir"`
	MaxStreams     *int           `hcl:"max_streams"`
	Trusted        *hcl.Attribute `hcl:"trusted_proxies"`
	TLS            *tlsBody       `hcl:"tls,block"`
	Range          hcl.Range      `hcl:",def_range"`
}

type tlsBody struct {
	Cert string `hcl:"cert_file"`
	Key  string `hcl:"key_file"`
}

type adminBody struct {
	Address string    `hcl:"address"`
	Range   hcl.Range `hcl:",def_range"`
}

type drainBody struct {
	Delay   *hcl.Attribute `hcl:"delay"`
	Timeout *hcl.Attribute `hcl:"timeout"`
}

type consulBody struct {
	Address    *string `hcl:"address"`
	Datacenter *string `hcl:"datacenter"`
	Namespace  *string `hcl:"namespace"`
	TokenFile  *string `hcl:"token_file"`
	Register   *bool   `hcl:"register"`
	Service    *string `hcl:"service"`
	Publish    *bool   `hcl:"publish_rates"`
}

type peersBody struct {
	Address   string         `hcl:"address"`
	Advertise *string        `hcl:"advertise"`
	TLS       *hcl.Attribute `hcl:"tls"`
	Cert      *string        `hcl:"cert_file"`
	Key       *string        `hcl:"key_file"`
	CA        *string        `hcl:"ca_file"`
	Range     hcl.Range      `hcl:",def_range"`
}

type nomadBody struct {
	Address   *string `hcl:"address"`
	Region    *string `hcl:"region"`
	Namespace *string `hcl:"namespace"`
	TokenFile *string `hcl:"token_file"`
}

type tenantsBody struct {
	Header  *string      `hcl:"header"`
	APIKey  *bool        `hcl:"api_key"`
	Tenants []tenantBody `hcl:"tenant,block"`
}

type tenantBody struct {
	Name      string         `hcl:"name,label"`
	Keys      []string       `hcl:"key_sha256,optional"`
	Weight    *float64       `hcl:"weight"`
	MaxActive *int           `hcl:"max_active"`
	MaxQueue  *int           `hcl:"max_queue"`
	Tokens    *float64       `hcl:"tokens_per_minute"`
	Priority  *hcl.Attribute `hcl:"priority"`
	Declares  *bool          `hcl:"declare_cost"`
	Range     hcl.Range      `hcl:",def_range"`
}

type serviceBody struct {
	Name     string         `hcl:"name,label"`
	Routes   []routeBody    `hcl:"route,block"`
	Consul   *discoverBody  `hcl:"consul,block"`
	Nomad    *nativeBody    `hcl:"nomad,block"`
	File     *string        `hcl:"replicas_file"`
	Static   []replicaBody  `hcl:"replica,block"`
	Policy   *hcl.Attribute `hcl:"policy"`
	SLO      *sloBody       `hcl:"slo,block"`
	Engine   *engineBody    `hcl:"engine,block"`
	Splits   []splitBody    `hcl:"split,block"`
	Session  *string        `hcl:"session_header"`
	Fallback *string        `hcl:"fallback"`
	Model    *string        `hcl:"model"`
	Queue    *queueBody     `hcl:"queue,block"`
	Upstream *upstreamBody  `hcl:"upstream,block"`
	Rules    []ruleBody     `hcl:"rule,block"`
	Wake     *wakeBody      `hcl:"wake,block"`
	Sleep    *sleepBody     `hcl:"sleep,block"`
	Range    hcl.Range      `hcl:",def_range"`
}

type routeBody struct {
	Hosts      []string          `hcl:"hosts,optional"`
	PathPrefix *string           `hcl:"path_prefix"`
	Headers    map[string]string `hcl:"headers,optional"`
	Models     []string          `hcl:"models,optional"`
}

type discoverBody struct {
	Service *string `hcl:"service"`
	Tag     *string `hcl:"tag"`
}

type nativeBody struct {
	Service *string `hcl:"service"`
}

type replicaBody struct {
	Address     *hcl.Attribute `hcl:"address"`
	Class       *string        `hcl:"class"`
	Slices      *int           `hcl:"slices"`
	Slots       *int           `hcl:"slots"`
	Weight      *float64       `hcl:"weight"`
	KV          *int           `hcl:"kv_tokens"`
	MaxModelLen *int           `hcl:"max_model_len"`
}

type splitBody struct {
	To      string    `hcl:"to"`
	Percent float64   `hcl:"percent"`
	Range   hcl.Range `hcl:",def_range"`
}

type sloBody struct {
	TTFT *hcl.Attribute `hcl:"ttft"`
	TPOT *hcl.Attribute `hcl:"tpot"`
	E2E  *hcl.Attribute `hcl:"e2e"`
	// Quantile is the share of requests that must meet the objective.
	Quantile *float64 `hcl:"quantile"`
	// Priority is the least urgent priority to which the objective applies.
	Priority *hcl.Attribute `hcl:"priority"`
}

type engineBody struct {
	Metrics     *hcl.Attribute `hcl:"metrics"`
	Port        *int           `hcl:"metrics_port"`
	Interval    *hcl.Attribute `hcl:"interval"`
	KV          *int           `hcl:"kv_tokens"`
	MaxModelLen *int           `hcl:"max_model_len"`
	Join        *bool          `hcl:"join_answers"`
	Salt        *hcl.Attribute `hcl:"cache_salt"`
	SaltKey     *string        `hcl:"cache_salt_key_file"`
	Range       hcl.Range      `hcl:",def_range"`
}

type queueBody struct {
	Max      *int           `hcl:"max"`
	MaxWait  *hcl.Attribute `hcl:"max_wait"`
	Theta    *hcl.Attribute `hcl:"theta"`
	Ahead    *int           `hcl:"send_ahead"`
	Priority *hcl.Attribute `hcl:"default_priority"`
	Failures *int           `hcl:"eject_failures"`
	Base     *hcl.Attribute `hcl:"eject_time"`
	MaxTime  *hcl.Attribute `hcl:"eject_time_max"`
}

type upstreamBody struct {
	Protocol   *hcl.Attribute `hcl:"protocol"`
	Client     *hcl.Attribute `hcl:"client"`
	Connect    *hcl.Attribute `hcl:"connect_timeout"`
	Header     *hcl.Attribute `hcl:"header_timeout"`
	Idle       *hcl.Attribute `hcl:"idle_timeout"`
	Retries    *int           `hcl:"retries"`
	Body       *hcl.Attribute `hcl:"request_body"`
	CAFile     *string        `hcl:"ca_file"`
	ServerName *string        `hcl:"server_name"`
}

type ruleBody struct {
	MinBatch  *int64    `hcl:"min_batch"`
	MaxBatch  *int64    `hcl:"max_batch"`
	MinPrompt *int64    `hcl:"min_prompt_tokens"`
	MaxPrompt *int64    `hcl:"max_prompt_tokens"`
	MinCost   *float64  `hcl:"min_cost"`
	MaxCost   *float64  `hcl:"max_cost"`
	Require   []string  `hcl:"require,optional"`
	Prefer    []string  `hcl:"prefer,optional"`
	Range     hcl.Range `hcl:",def_range"`
}

type sleepBody struct {
	Port    *int           `hcl:"port"`
	Level   *int           `hcl:"level"`
	Timeout *hcl.Attribute `hcl:"timeout"`
	Range   hcl.Range      `hcl:",def_range"`
}

type wakeBody struct {
	Interval *hcl.Attribute `hcl:"interval"`
	Place    *hcl.Attribute `hcl:"place_timeout"`
	Targets  []targetBody   `hcl:"target,block"`
	Range    hcl.Range      `hcl:",def_range"`
}

type targetBody struct {
	Job   string  `hcl:"job"`
	Group string  `hcl:"group"`
	Class *string `hcl:"class"`
	Cost  float64 `hcl:"cost"`
}
