package scale

import (
	"strings"
	"testing"
	"time"
)

func TestParseConfig(t *testing.T) {
	c, err := ParseConfig(map[string]string{"slots": "4", "coldstart": "2m", "standby": "1", "utilization": "0.8"})
	if err != nil || c.Policy.ColdStart != 2*time.Minute || c.Policy.Standby != 1 || c.Policy.Utilization != 0.8 ||
		len(c.Classes) != 1 || c.Classes[0].Slots != 4 {
		t.Fatalf("got %+v, %v", c, err)
	}
	c, err = ParseConfig(map[string]string{"class": "l4", "classes": "h100 slots=8 max=2, l4 slots=2 max=9"})
	if err != nil || c.Own != 1 {
		t.Fatalf("got %+v, %v", c, err)
	}
}

func TestParseConfigSaysWhatToDo(t *testing.T) {
	for _, c := range []struct{ key, value, want string }{
		{"slots", "", "slots is missing"},
		{"slots", "many", `slots is "many": want a whole number from 1`},
		{"coldstart", "90", `coldstart is "90": want a duration such as 90s`},
		{"utilization", "2", "utilization is 2: want 0.01 to 1"},
		{"hysteresis", "NaN", "hysteresis is NaN"},
		{"target", "3", `unknown setting "target": want one of coldstart`},
		{"class", "l4", "classes is missing"},
		{"classes", "l4 slots=2 max=9", "slots and max cannot be set together with classes"},
	} {
		settings := map[string]string{"slots": "4"}
		settings[c.key] = c.value
		if _, err := ParseConfig(settings); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %q: got %v, want %q", c.key, c.value, err, c.want)
		}
	}
	_, err := ParseConfig(map[string]string{"class": "a100", "classes": "h100 slots=8 max=2"})
	if err == nil || !strings.Contains(err.Error(), `class is "a100": want one of`) {
		t.Errorf("got %v", err)
	}
	_, err = ParseConfig(map[string]string{"class": "h100", "classes": "h100 slots=x max=2"})
	if err == nil || !strings.Contains(err.Error(), `classes, column 12`) {
		t.Errorf("got %v", err)
	}
}
