package query

import (
	"maps"
	"time"

	"aliquot.example/internal/scale"
)

// ColdStart is the setting that, where given, counts in place of what was learned.
const ColdStart = "coldstart"

// Config reads the settings of a check with aliquot-strategy and its query's window. learned
// is the cold start that counts where the settings have none; 0 where none is known. short
// says why the count cannot shrink: only a learned cold start may make a window too short,
// because one that turned out longer must not stop counts from growing.
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
