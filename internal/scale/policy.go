// Package scale decides how many replicas a service needs from the demand that its gateways
// measured.
//
// Every decision is a function of the demand of the last minutes and the present count. The package
// keeps no state between decisions. A restarted autoscaler therefore makes the same decision as
// before, and the policies of several hardware classes agree without communication.
package scale

import (
	"fmt"
	"time"
)

// Step is the interval between two samples of demand.
const Step = time.Second

// Policy determines how demand becomes capacity. Start from Default, change what you know better,
// and call Validate before use.
type Policy struct {
	// Utilization is the part of its slots that a replica should use, above 0 to 1. The target
	// concurrency is slots x Utilization.
	Utilization float64
	// StableWindow is the averaging window of the demand. PanicWindow is the one for bursts.
	StableWindow, PanicWindow time.Duration
	// PanicThreshold is the minimum ratio of the panic average to the largest stable average within
	// the scale-down delay. Below it, the panic average does not apply.
	PanicThreshold float64
	// ColdStart is the 95th percentile of the time from setting a count until the new replica
	// serves.
	ColdStart time.Duration
	// DownDelay is how long demand must have been lower before capacity follows. 0 means max(300 s,
	// DownFactor x ColdStart).
	DownDelay  time.Duration
	DownFactor float64
	// Decay is the part of a past peak that remains after each further DownDelay: 0.5 halves it
	// each time, 0 drops it at once.
	Decay float64
	// ForecastWindow is the window for the slope of the demand, or the history if that is shorter.
	// 0 disables the forecast. A slope of x times ForecastConfidence standard errors is multiplied
	// by 1 - 1/x². A forecast is at most four times the present demand.
	ForecastWindow     time.Duration
	ForecastConfidence float64
	// ZeroGrace is how long, after DownDelay, a service must be without any request before its last
	// replica ends.
	ZeroGrace time.Duration
	// Standby is the number of replicas to keep beyond the demand while there is any, in replicas
	// of the first class.
	Standby int
	// Sleep is how many surplus replicas sleep instead of ending.
	Sleep int
	// Hysteresis is how far demand must fall below the level that a count was made for before the
	// count shrinks: 0.25 keeps the count until demand x 1.25 needs less.
	Hysteresis float64

	// If multiple is above 0, planned capacities are rounded up to multiples of this number of
	// units.
	multiple int
}

// Default returns the policy that `make bench-scale` uses.
func Default() Policy {
	return Policy{
		Utilization:        0.9,
		StableWindow:       60 * time.Second,
		PanicWindow:        6 * time.Second,
		PanicThreshold:     1.5,
		ColdStart:          90 * time.Second,
		DownFactor:         2,
		Decay:              0.5,
		ForecastWindow:     180 * time.Second,
		ForecastConfidence: 2,
		ZeroGrace:          300 * time.Second,
		Hysteresis:         0.25,
	}
}

// minDownDelay is the minimum of the default scale-down delay.
const minDownDelay = 300 * time.Second

// DownDelayOrDefault returns DownDelay, or its default if it is 0.
func (p Policy) DownDelayOrDefault() time.Duration {
	if p.DownDelay > 0 {
		return p.DownDelay
	}
	return max(minDownDelay, time.Duration(p.DownFactor*float64(p.ColdStart)))
}

// Window returns how much history is needed to shrink. With less, a count only grows. With a longer
// history past peaks decay instead of being dropped. Scaling to zero needs a history of DownDelay
// and ZeroGrace.
func (p Policy) Window() time.Duration {
	return p.DownDelayOrDefault() + p.StableWindow
}

// Shrinks returns an error if the query's window is too short for a count to shrink.
func (p Policy) Shrinks(queryWindow time.Duration) error {
	if window := p.Window(); queryWindow < window {
		return fmt.Errorf("query_window is %s: want at least %s, which is down_delay and stable_window; "+
			"15m lets peaks decay", queryWindow, window)
	}
	return nil
}

const maxDuration = 24 * time.Hour

// Validate returns an error for the first setting that is out of range.
func (p Policy) Validate() error {
	between := func(name string, v, low, high float64) error {
		if v >= low && v <= high {
			return nil
		}
		return fmt.Errorf("%s is %v: want %v to %v", name, v, low, high)
	}
	within := func(name string, d, low, high time.Duration) error {
		if d >= low && d <= high {
			return nil
		}
		return fmt.Errorf("%s is %s: want %s to %s", name, d, low, high)
	}
	for _, err := range []error{
		between("utilization", p.Utilization, 0.01, 1),
		within("stable_window", p.StableWindow, Step, time.Hour),
		within("panic_window", p.PanicWindow, Step, p.StableWindow),
		between("panic_threshold", p.PanicThreshold, 1, 1000),
		within("coldstart", p.ColdStart, 0, maxDuration),
		within("down_delay", p.DownDelay, 0, maxDuration),
		between("down_factor", p.DownFactor, 0, 100),
		between("decay", p.Decay, 0, 1),
		within("forecast_window", p.ForecastWindow, 0, time.Hour),
		between("forecast_confidence", p.ForecastConfidence, 0, 100),
		within("zero_grace", p.ZeroGrace, 0, maxDuration),
		between("standby", float64(p.Standby), 0, 10000),
		between("sleep", float64(p.Sleep), 0, 10000),
		between("hysteresis", p.Hysteresis, 0, 10),
	} {
		if err != nil {
			return err
		}
	}
	if p.ForecastWindow > 0 && p.ForecastWindow < blocks*Step {
		return fmt.Errorf("forecast_window is %s: want 0 (off) or at least %s", p.ForecastWindow, blocks*Step)
	}
	return nil
}

// steps returns the number of samples that cover d.
func steps(d time.Duration) int { return int((d + Step - 1) / Step) }
