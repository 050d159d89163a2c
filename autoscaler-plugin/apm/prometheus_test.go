package apm

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// prometheusStub answers range queries with the given samples per series.
func prometheusStub(t *testing.T, queued, active string) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		result := queued
		if strings.Contains(r.FormValue("query"), "aliquot_gateway_active") {
			result = active
		}
		if r.URL.Path != "/api/v1/query_range" || r.FormValue("step") != "5" || !strings.Contains(r.FormValue("query"), `service="llm"`) {
			t.Errorf("asked %s", r.URL)
		}
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"matrix","result":[%s]}}`, result)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func samples(class string, pairs ...any) string {
	var parts []string
	for i := 0; i < len(pairs); i += 2 {
		parts = append(parts, fmt.Sprintf(`[%d,"%v"]`, to.Unix()-int64(pairs[i].(int)), pairs[i+1]))
	}
	return fmt.Sprintf(`{"metric":{"class":%q},"values":[%s]}`, class, strings.Join(parts, ","))
}

func TestPrometheusIsPutOnSeconds(t *testing.T) {
	url := prometheusStub(t, samples("", 10, 2, 5, 4, 0, 0),
		samples("h100", 10, 1, 5, 1, 0, 3)+","+samples("t4", 10, 5))
	p := plugin(t, map[string]string{"prometheus_address": url})
	m, err := p.Query("concurrency service=llm", within(time.Minute))
	if err != nil || fmt.Sprint(values(m)) != "[8 8 8 8 8 5 5 5 5 5 3]" {
		t.Fatalf("got %v, %v", values(m), err)
	}
	m, err = p.Query("active service=llm class=t4", within(time.Minute))
	if err != nil || fmt.Sprint(values(m)) != "[5 5 5 5 5 0 0 0 0 0 0]" {
		t.Errorf("a class that is not exported any more: got %v, %v", values(m), err)
	}
}

func TestPrometheusWithoutNewSamplesIsAnError(t *testing.T) {
	for want, queued := range map[string]string{
		"no aliquot_gateway_queued": "",
		"41s old":                   samples("", 60, 1, 40, 2),
		"has an invalid sample":     samples("", 5, "NaN"),
	} {
		p := plugin(t, map[string]string{"prometheus_address": prometheusStub(t, queued, "")})
		if _, err := p.Query("concurrency service=llm", within(time.Minute)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestPrometheusKnowsNoTokens(t *testing.T) {
	p := plugin(t, map[string]string{"prometheus_address": prometheusStub(t, samples("", 60, 1, 0, 2), "")})
	if _, err := p.Query("tokens service=llm", within(time.Minute)); err == nil || !strings.Contains(err.Error(), "ask the gateways") {
		t.Errorf("got %v", err)
	}
}

func TestConfigSaysWhatToDo(t *testing.T) {
	for _, c := range []struct{ key, value, want string }{
		{"stale_after", "10", "want a duration"},
		{"prometheus_address", "prom:9090", "want a URL"},
		{"consul_adress", "x", `unknown setting "consul_adress"`},
		{"consul_token_file", "/does/not/exist", "consul_token_file"},
		{"prometheus_token_file", "/does/not/exist", ""},
	} {
		_, err := readConfig(map[string]string{c.key: c.value, "nomad_address": "http://x"})
		if c.key == "consul_token_file" {
			p := New(nil)
			err = p.SetConfig(map[string]string{c.key: c.value})
		}
		if c.want == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s = %q: got %v, want %q", c.key, c.value, err, c.want)
		}
	}
}
