package scale

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Config is a policy as users write it: what to scale, and how. See Decide.
type Config struct {
	Policy  Policy
	Classes []Class
	// Own is the index in Classes of the class to scale.
	Own int
	// Objective is the latency objective of the service. It is nil if the count follows demand.
	Objective *Objective
}

// ParseConfig parses settings by name. The names of policy settings are those in the errors of
// Policy.Validate: lower case with underscores. The hardware is either "slots" (and "max", default
// 10000) for a service with one kind of replica, or "classes" (see ParseClasses) and "class", the
// class to scale. A setting that is missing or empty has the value of Default. An unknown name is
// an error.
func ParseConfig(settings map[string]string) (Config, error) {
	c := Config{Policy: Default()}
	fields := c.Policy.fields()
	for _, name := range sorted(settings) {
		field, ok := fields[name]
		switch {
		case ok && settings[name] == "": // not set
		case ok:
			if err := field.set(settings[name]); err != nil {
				return Config{}, fmt.Errorf("%s is %q: want %s", name, settings[name], field.want)
			}
		case !slices.Contains(others, name):
			return Config{}, fmt.Errorf("unknown setting %q: want one of %s", name,
				strings.Join(append(sorted(fields), others...), ", "))
		}
	}
	if text := settings["objective"]; text != "" {
		o, err := ParseObjective(text)
		if err != nil {
			return Config{}, fmt.Errorf("objective is %q: %w", text, err)
		}
		c.Objective = &o
	}
	if err := c.Policy.Validate(); err != nil {
		return Config{}, err
	}
	return c, c.readHardware(settings)
}

// others are the settings that do not belong to Policy.
var others = []string{"class", "classes", "slots", "max", "objective"}

func (c *Config) readHardware(settings map[string]string) error {
	if settings["classes"] == "" {
		if settings["class"] != "" {
			return fmt.Errorf(
				`class is %q but classes is missing: list all classes of the service, `+
					`such as classes = "h100 slots=8 cost=3.5 max=4, l4 slots=2 cost=1 max=16"`, settings["class"])
		}
		return c.readSlots(settings)
	}
	if settings["slots"] != "" || settings["max"] != "" {
		return fmt.Errorf("slots and max cannot be set together with classes: set them for each class")
	}
	var err error
	if c.Classes, err = ParseClasses(settings["classes"]); err != nil {
		return fmt.Errorf("classes, %w", err)
	}
	if c.Own = slices.IndexFunc(c.Classes, func(k Class) bool { return k.Name == settings["class"] }); c.Own < 0 {
		return fmt.Errorf("class is %q: want one of classes = %q", settings["class"], settings["classes"])
	}
	return nil
}

func (c *Config) readSlots(settings map[string]string) error {
	class := Class{Name: "gpu", Cost: 1, Max: maxCount, Speed: 1}
	for name, to := range map[string]*int{"slots": &class.Slots, "max": &class.Max} {
		if settings[name] == "" {
			continue
		}
		n, err := strconv.Atoi(settings[name])
		if err != nil || n < 1 || n > maxCount {
			return fmt.Errorf("%s is %q: want a whole number from 1 to %d", name, settings[name], maxCount)
		}
		*to = n
	}
	if class.Slots == 0 {
		return fmt.Errorf("slots is missing: want how many requests one replica serves at once, " +
			"or classes for several kinds of hardware")
	}
	c.Classes = []Class{class}
	return nil
}

// field is the parser of one setting of a Policy.
type field struct {
	want string
	set  func(string) error
}

func (p *Policy) fields() map[string]field {
	duration := func(d *time.Duration) field {
		return field{"a duration such as 90s", func(s string) (err error) {
			*d, err = time.ParseDuration(s)
			return err
		}}
	}
	number := func(f *float64) field {
		return field{"a number", func(s string) (err error) { *f, err = strconv.ParseFloat(s, 64); return err }}
	}
	return map[string]field{
		"utilization":         number(&p.Utilization),
		"stable_window":       duration(&p.StableWindow),
		"panic_window":        duration(&p.PanicWindow),
		"panic_threshold":     number(&p.PanicThreshold),
		"coldstart":           duration(&p.ColdStart),
		"down_delay":          duration(&p.DownDelay),
		"down_factor":         number(&p.DownFactor),
		"decay":               number(&p.Decay),
		"forecast_window":     duration(&p.ForecastWindow),
		"forecast_confidence": number(&p.ForecastConfidence),
		"zero_grace":          duration(&p.ZeroGrace),
		"standby": {"a whole number", func(s string) (err error) {
			p.Standby, err = strconv.Atoi(s)
			return err
		}},
		"sleep":      {"a whole number", func(s string) (err error) { p.Sleep, err = strconv.Atoi(s); return err }},
		"hysteresis": number(&p.Hysteresis),
	}
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
