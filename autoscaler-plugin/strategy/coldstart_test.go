package strategy

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// kv returns a plugin with a stub of Consul that has one key.
func kv(t *testing.T, value string) (*Plugin, *httptest.Server) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/kv/aliquot/coldstart/llm" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		fmt.Fprintf(w, `[{"Key":"aliquot/coldstart/llm","ModifyIndex":7,"Value":%q}]`, base64.StdEncoding.EncodeToString([]byte(value)))
	}))
	t.Cleanup(server.Close)
	p := New(hclog.NewNullLogger())
	if err := p.SetConfig(map[string]string{"consul_address": strings.TrimPrefix(server.URL, "http://")}); err != nil {
		t.Fatal(err)
	}
	return p, server
}

func starts(seconds ...float64) string {
	var parts []string
	for _, s := range seconds {
		parts = append(parts, fmt.Sprintf(`{"at":%q,"class":"h100","seconds":%g}`, time.Now().UTC().Format(time.RFC3339), s))
	}
	return `{"version":1,"samples":[` + strings.Join(parts, ",") + `]}`
}

var fourSlots = map[string]string{"slots": "4"}

func TestALearnedColdStartIsUsedAlsoWhileConsulIsAway(t *testing.T) {
	p, consul := kv(t, starts(30, 40, 35))
	for _, state := range []string{"here", "away"} {
		got, err := p.Run(eval(18, 900, fourSlots), 5)
		if err != nil || got.Action.Meta["aliquot.coldstart"] != "40s" {
			t.Fatalf("Consul %s: got %+v, %v", state, got, err)
		}
		consul.Close()
	}
}

func TestWithoutAnyWordFromConsulNothingIsDecided(t *testing.T) {
	p, consul := kv(t, "")
	consul.Close()
	_, err := p.Run(eval(18, 900, fourSlots), 5)
	if err == nil || strings.Contains(err.Error(), "connection refused") || !strings.Contains(err.Error(), "set coldstart") {
		t.Fatalf("got %v", err)
	}
	if got, err := p.Run(eval(18, 900, map[string]string{"slots": "4", "coldstart": "30s"}), 5); err != nil || got.Action.Count != 5 {
		t.Errorf("with a cold start of its own: got %+v, %v", got, err)
	}
}

func TestALongLearnedColdStartStillLetsCountsGrow(t *testing.T) {
	p, _ := kv(t, starts(900, 900, 900)) // shrinking needs 31 minutes
	var log strings.Builder
	p.log = hclog.New(&hclog.LoggerOptions{Output: &log})
	got, err := p.Run(eval(18, 900, fourSlots), 2)
	if err != nil || got.Action.Count != 5 {
		t.Fatalf("growing: got %+v, %v", got, err)
	}
	if got, err = p.Run(eval(18, 900, fourSlots), 20); err != nil || got.Action.Count != 20 {
		t.Errorf("shrinking: got %+v, %v, want 20 held", got, err)
	}
	if n := strings.Count(log.String(), "cannot shrink"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log.String())
	}
}
