package config

import (
	"os"
	"strings"
	"testing"
	"time"

	"aliquot.example/internal/weigh"
)

// documented returns the configuration in docs/router.md.
func documented(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile("../../docs/router.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "## Configuration")
	_, after, found := strings.Cut(after, "```hcl\n")
	block, _, end := strings.Cut(after, "```")
	if !ok || !found || !end {
		t.Fatal("docs/router.md has no configuration")
	}
	return []byte(block)
}

func TestTheDocumentedConfiguration(t *testing.T) {
	c, err := Parse(documented(t), "docs/router.md")
	if err != nil {
		t.Fatal(err)
	}
	defaults, err := Parse(nil, "defaults")
	if err != nil {
		t.Fatal(err)
	}
	if c.Limits != defaults.Limits || c.Trust != defaults.Trust || c.Leader != defaults.Leader || c.Audit != defaults.Audit || c.Rates != defaults.Rates {
		t.Errorf("what is documented as the default is not: %+v and %+v", c, defaults)
	}
	chat := c.Services["chat"]
	if len(chat.Rules) != 3 || !chat.Rules[1].Strict || chat.Route == nil || !*chat.Route || c.ProtocolOf("chat") != "http2" || c.ProtocolOf("other") != "http" {
		t.Errorf("service chat: %+v", chat)
	}
	if got := c.TuningOf("chat"); got.RequestTimeout != 30*time.Minute || got.IdleTimeout != 10*time.Minute || got.Retries != 2 || got.Balance != weigh.RingHash("x-session-id") {
		t.Errorf("tuning of chat: %+v", got)
	}
	if c.TuningOf("other") != defaults.Tuning {
		t.Errorf("tuning of others: %+v", c.TuningOf("other"))
	}
	if p := c.Profiles("chat"); p["l4"].Weight != 0.12 || p["h100"].Weight != 1 || len(c.Profiles("other")) != 2 {
		t.Errorf("profiles: %+v", p)
	}
}

func TestValues(t *testing.T) {
	c, err := Parse([]byte(`
leader {
  ttl = "30s"
}
limits {
  min_change = 2.5
  retain     = "1h"
}
rates {
  prefix  = "/other/rates/"
  max_age = "10m"
}`), "x")
	if err != nil {
		t.Fatal(err)
	}
	if c.Leader.TTL != 30*time.Second || c.Limits != (weigh.Limits{MinChange: 250, Interval: time.Second, Retain: time.Hour}) || c.Rates != "other/rates" || c.Trust.MaxAge != 10*time.Minute {
		t.Errorf("got %+v", c)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(documented(f))
	f.Add([]byte(`service "a" { rule "b" { header "c" { at_least = 9 } } }`))
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := Parse(text, "fuzz")
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("the error has several lines: %q", err)
			}
			return
		}
		for name, s := range c.Services {
			if weigh.CheckService(name) != nil {
				t.Fatalf("service %q passes", name)
			}
			for _, r := range s.Rules {
				if r.Check() != nil {
					t.Fatalf("rule %+v passes", r)
				}
			}
		}
	})
}
