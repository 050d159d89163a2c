// Package scale decides how many replicas a service needs from the demand that
// its gateways measured.
//
// Every decision is a function of the demand of the last minutes and the count
// that is set now. Nothing is remembered between two decisions, so a restarted
// autoscaler decides what the old one would have decided, and the policies of
// several hardware classes, each evaluated alone, agree without talking.
package scale

import (
	"fmt"
	"time"
)

// Step is the distance of two samples of demand.
const Step = time.Second

// Policy says how demand becomes capacity. Start from Default and change what
// is known better; Validate before use.
type Policy struct {
	// Utilization is the part of its slots that a replica is meant to use, above 0
	// to 1. Its target concurrency is slots x Utilization.
	Utilization float64
	// StableWindow is what demand is averaged over; PanicWindow is the same for
	// bursts.
	StableWindow, PanicWindow time.Duration
	// PanicThreshold is how far, as a multiple of the largest stable average
	// within the scale-down delay, the panic average must reach to count.
	PanicThreshold float64
	// ColdStart is the time from setting a count until the new replica serves, at
	// the 95th percentile.
	ColdStart time.Duration
	// DownDelay is how long demand must have been lower before capacity follows;
	// 0 means max(300 s, DownFactor x ColdStart).
	DownDelay  time.Duration
	DownFactor float64
	// Decay is the part of a past peak that is still kept after one more DownDelay
	// has passed: 0.5 halves it each time, 0 forgets it at once.
	Decay float64
	// ForecastWindow is what the slope of the demand is taken over, as far as there is
	// history; 0 switches the forecast off. Of a slope that is x times
	// ForecastConfidence standard errors, 1 - 1/x² counts, and at most it makes four
	// times of the demand.
	ForecastWindow     time.Duration
	ForecastConfidence float64
	// ZeroGrace is how long, after DownDelay, a service must have been without a
	// single request before its last replica goes.
	ZeroGrace time.Duration
	// Standby replicas are kept beyond the demand while there is any, counted in
	// replicas of the first class.
	Standby int
	// Sleep is how many replicas that the demand does not need are kept asleep in place
	// of being ended.
	Sleep int
	// Hysteresis is how much lower demand must be than a count was made for
	// before the count shrinks: 0.25 keeps it until demand x 1.25 needs less.
	Hysteresis float64

	// multiple is of how many units what is planned for is a multiple, 0 for any number.
	multiple int
}

// Default returns the policy that `make bench-scale` is run with.
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

// minDownDelay is the floor of the default scale-down delay.
const minDownDelay = 300 * time.Second

// DownDelayOrDefault returns DownDelay or what stands in for it.
func (p Policy) DownDelayOrDefault() time.Duration {
	if p.DownDelay > 0 {
		return p.DownDelay
	}
	return max(minDownDelay, time.Duration(p.DownFactor*float64(p.ColdStart)))
}

// Window is how much history a decision to shrink needs. With less, a count only
// grows. Longer history lets past peaks decay instead of being forgotten, and
// scaling to zero needs DownDelay and ZeroGrace of it.
func (p Policy) Window() time.Duration {
	return p.DownDelayOrDefault() + p.StableWindow
}

// Shrinks fails where a query's window is too short for a count ever to shrink.
func (p Policy) Shrinks(queryWindow time.Duration) error {
	if window := p.Window(); queryWindow < window {
		return fmt.Errorf("query_window is %s: want at least %s, which is down_delay and stable_window; "+
			"15m lets peaks decay", queryWindow, window)
	}
	return nil
}

const longest = 24 * time.Hour

// Validate returns the first setting that makes no sense, with its range.
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
		within("coldstart", p.ColdStart, 0, longest),
		within("down_delay", p.DownDelay, 0, longest),
		between("down_factor", p.DownFactor, 0, 100),
		between("decay", p.Decay, 0, 1),
		within("forecast_window", p.ForecastWindow, 0, time.Hour),
		between("forecast_confidence", p.ForecastConfidence, 0, 100),
		within("zero_grace", p.ZeroGrace, 0, longest),
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

// steps is the number of samples that cover d.
func steps(d time.Duration) int { return int((d + Step - 1) / Step) }
