package version

// Tested are the versions of the servers that a release was tested with.
type Tested struct {
	Nomad           string `json:"nomad"`
	Consul          string `json:"consul"`
	NomadAutoscaler string `json:"nomad_autoscaler"`
}

// TestedWith repeats the versions in tools/*/go.mod; a test compares them.
var TestedWith = Tested{Nomad: "1.11.3", Consul: "1.22.7", NomadAutoscaler: "0.5.0"}
