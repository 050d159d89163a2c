//go:build race

package nvidia_test

// The shipped program is built with the race detector when the tests are, and
// ends at the first race.
var raceFlags, raceEnv = []string{"-race"}, []string{"GORACE=halt_on_error=1"}
