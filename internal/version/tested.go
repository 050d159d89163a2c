package version

// Tested are the versions of the servers that the tests of a release run.
type Tested struct {
	Nomad           string `json:"nomad"`
	Consul          string `json:"consul"`
	NomadAutoscaler string `json:"nomad_autoscaler"`
}

// TestedWith repeats what tools/*/go.mod pin; a test compares them.
var TestedWith = Tested{Nomad: "1.11.3", Consul: "1.22.7", NomadAutoscaler: "0.5.0"}
