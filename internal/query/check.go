package query

import (
	"maps"
	"time"

	"aliquot.example/internal/scale"
)

// ColdStart is the setting that overrides the learned cold start.
const ColdStart = "coldstart"

// Config parses the settings of a check with aliquot-strategy. window is the query window of the
// check; learned is the cold start to use if the settings have none, 0 if none is known.
//
// If the window is too short for the count to shrink, Config returns err for a cold start in the
// settings, but short for a learned one: a cold start that turns out longer must not stop counts from
// growing.
func Config(settings map[string]string, window, learned time.Duration) (config scale.Config, short, err error) {
	set := settings
	if settings[ColdStart] != "" {
		learned = 0
	}
	if learned > 0 {
		set = map[string]string{}
		maps.Copy(set, settings)
		set[ColdStart] = learned.String()
	}
	if config, err = scale.ParseConfig(set); err != nil {
		return config, nil, err
	}
	if short = config.Policy.Shrinks(window); short != nil && learned == 0 {
		return config, nil, short
	}
	return config, short, nil
}
