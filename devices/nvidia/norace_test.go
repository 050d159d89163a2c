//go:build !race

package nvidia_test

var raceFlags, raceEnv []string
