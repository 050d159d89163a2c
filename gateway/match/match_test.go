package match

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"aliquot.example/gateway/config"
)

var services = []config.Service{
	{Name: "any", Routes: []config.Route{{}}},
	{Name: "v1", Routes: []config.Route{{PathPrefix: "/v1"}}},
	{Name: "chat", Routes: []config.Route{{PathPrefix: "/v1/chat/"}}},
	{Name: "host", Routes: []config.Route{{Hosts: []string{"models.example.org"}}}},
	{Name: "wild", Routes: []config.Route{{Hosts: []string{"*.example.org"}}}},
	{Name: "header", Routes: []config.Route{{PathPrefix: "/v1", Headers: map[string]string{"x-team": "a"}}, {Headers: map[string]string{"X-Any": "*"}}}},
	{Name: "model", Routes: []config.Route{{PathPrefix: "/v1", Models: []string{"llama", "org/llama"}}}},
}

func TestTheMostTellingRouteWins(t *testing.T) {
	table := NewTable(services)
	for _, c := range []struct {
		url, header, body, want string
	}{
		{"http://x/", "", "", "any"},
		{"http://x/v1", "", "", "v1"},
		{"http://x/v1/models", "", "", "v1"},
		{"http://x/v1x", "", "", "any"},
		{"http://x/v1/chat/completions", "", "", "chat"},
		{"http://models.example.org/v1/chat", "", "", "host"},
		{"http://MODELS.example.org.:8080/", "", "", "host"},
		{"http://a.b.example.org/", "", "", "wild"},
		{"http://example.org/", "", "", "any"},
		{"http://x/v1", "X-Team: a", "", "header"},
		{"http://x/v1", "X-Team: b", "", "v1"},
		{"http://x/other", "X-Any: whatever", "", "header"},
		{"http://x/v1/completions", "", `{"model": "llama"}`, "model"},
		{"http://x/v1/completions", "", `{"model": "other"}`, "v1"},
		{"http://x/other", "", `{"model": "llama"}`, "any"},
	} {
		r := httptest.NewRequest(http.MethodPost, c.url, nil)
		if name, value, ok := strings.Cut(c.header, ": "); ok {
			r.Header.Set(name, value)
		}
		got := table.Service(r, func() string { return Model(strings.NewReader(c.body), nil) })
		if got < 0 || services[got].Name != c.want {
			t.Errorf("%s %s %s: service %d, want %s", c.url, c.header, c.body, got, c.want)
		}
	}
	if got := NewTable(services[1:2]).Service(httptest.NewRequest("GET", "http://x/", nil), nil); got != -1 {
		t.Errorf("a request that no route matches goes to service %d", got)
	}
}

func TestTheBodyIsAskedOnlyWhenARouteDependsOnIt(t *testing.T) {
	table := NewTable(services)
	asked := 0
	table.Service(httptest.NewRequest("POST", "http://x/other", nil), func() string { asked++; return "" })
	if asked != 0 {
		t.Error("the body was read for nothing")
	}
	table.Service(httptest.NewRequest("POST", "http://x/v1", nil), func() string { asked++; return "" })
	if asked != 1 {
		t.Errorf("the body was asked %d times", asked)
	}
}

func TestModelIsFoundWhereverItStands(t *testing.T) {
	long := strings.Repeat("x", 20000)
	for text, want := range map[string]string{
		`{"model":"m"}`: "m",
		` { "messages" : [ {"model":"no"} ] , "model" : "m" } `:          "m",
		`{"prompt":"` + long + `","model":"m"}`:                          "m",
		`{"a":{"model":"no"},"b":["model","no"],"model":"m"}`:            "m",
		`{"a":"model","model":"m"}`:                                      "m",
		`{"a":"say \"model\": \"no\"","model":"m"}`:                      "m",
		`{"m\u006fdel":"a\/b\u00e9"}`:                                    "a/bé",
		`{"model":5}`:                                                    "",
		`{"model":null,"model":"second"}`:                                "second",
		`{"model":"first","x":"\\\"\\","model":"second"}`:                "second",
		`{"model":"first","model":5}`:                                    "",
		`{"model":"m","prompt":"cut`:                                     "m",
		"\xef\xbb\xbf" + `{"model":"m"}`:                                 "m",
		`{"prompt":"` + strings.Repeat(`\\\"`, 40000) + `","model":"m"}`: "m",
		`{"model":{"model":"no"}}`:                                       "",
		`["model","no"]`:                                                 "",
		`"model"`:                                                        "",
		`{}`:                                                             "",
		``:                                                               "",
		`{"model":"` + strings.Repeat("m", 600) + `"}`:                   "",
		`model=no`:                                                       "",
	} {
		for _, r := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text))} {
			if got := Model(r, nil); got != want {
				t.Errorf("%.60s: model %q, want %q", text, got, want)
			}
		}
	}
}

func TestTheModelIsFoundInCodingsAndForms(t *testing.T) {
	const object = `{"model":"m"}`
	var zipped, deflated, form bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, object)
	z.Close()
	d := zlib.NewWriter(&deflated)
	io.WriteString(d, object)
	d.Close()
	w := multipart.NewWriter(&form)
	file, _ := w.CreateFormFile("file", "model")
	io.WriteString(file, strings.Repeat("\r\nmodel", 100000))
	w.WriteField("model", "m")
	w.Close()
	for name, c := range map[string]struct {
		body, coding, kind, want string
	}{
		"identity":         {object, "identity", "application/json", "m"},
		"gzip":             {zipped.String(), "gzip", "application/json", "m"},
		"gzip, cut":        {zipped.String()[:15], "gzip", "application/json", ""},
		"gzip, none":       {object, "gzip", "application/json", ""},
		"deflate":          {deflated.String(), "deflate", "application/json", "m"},
		"unknown":          {object, "br", "application/json", ""},
		"text":             {object, "", "text/plain", "m"},
		"form":             {form.String(), "", w.FormDataContentType(), "m"},
		"form, a boundary": {form.String(), "", "multipart/form-data", ""},
		"form, cut":        {form.String()[:1000], "", w.FormDataContentType(), ""},
	} {
		h := http.Header{"Content-Encoding": {c.coding}, "Content-Type": {c.kind}}
		if got := Model(strings.NewReader(c.body), h); got != c.want {
			t.Errorf("%s: model %q, want %q", name, got, c.want)
		}
	}
}

func TestFacts(t *testing.T) {
	request := func(header ...string) *http.Request {
		r := httptest.NewRequest("POST", "http://x/", strings.NewReader(strings.Repeat("x", 400)))
		for _, h := range header {
			name, value, _ := strings.Cut(h, ": ")
			r.Header.Set(name, value)
		}
		return r
	}
	f, err := FactsOf(request("X-Batch-Size: 8", "X-Request-Cost: 2.5", "X-Request-Timeout: 1.5", "X-Priority: batch"))
	if want := (Facts{Batch: 8, Prompt: 100, Cost: 2.5, Timeout: 1500 * time.Millisecond, Priority: "batch"}); err != nil || f != want {
		t.Errorf("%+v, %v", f, err)
	}
	for header, want := range map[string]time.Duration{"X-Request-Timeout: 250ms": 250 * time.Millisecond, "Grpc-Timeout: 1500m": 1500 * time.Millisecond, "Grpc-Timeout: 2H": 2 * time.Hour} {
		if f, err := FactsOf(request(header)); err != nil || f.Timeout != want {
			t.Errorf("%s: %v, %v", header, f.Timeout, err)
		}
	}
	for _, header := range []string{"X-Batch-Size: many", "X-Batch-Size: -1", "X-Request-Cost: NaN", "X-Request-Cost: -1", "X-Request-Cost: 0", "X-Request-Timeout: -1s", "X-Request-Timeout: x", "Grpc-Timeout: 1", "Grpc-Timeout: 999999999S", "X-Prompt-Tokens: 1e9"} {
		_, err := FactsOf(request(header))
		if name, _, _ := strings.Cut(header, ":"); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", header, err)
		}
	}
}

func TestTheFirstRuleThatHoldsPlaces(t *testing.T) {
	rules := []config.Rule{{MinBatch: 8}, {MaxPrompt: 100}, {MinPrompt: 1000, MaxPrompt: 5000}, {MinCost: 10}}
	for _, c := range []struct {
		f    Facts
		want int
	}{
		{Facts{Batch: 8, Prompt: 5, Cost: -1}, 1}, {Facts{Batch: 7, Prompt: 100, Cost: -1}, 2}, {Facts{Batch: -1, Prompt: 500, Cost: -1}, 0},
		{Facts{Batch: -1, Prompt: 5000, Cost: -1}, 3}, {Facts{Batch: -1, Prompt: -1, Cost: 10}, 4}, {Facts{Batch: -1, Prompt: -1, Cost: -1}, 0},
	} {
		if got := Placement(rules, &c.f); got != c.want {
			t.Errorf("%+v: rule %d, want %d", c.f, got, c.want)
		}
	}
}

func TestClimbs(t *testing.T) {
	for path, want := range map[string]bool{"/a/b": false, "/a..b/..c": false, "/a/../b": true, "/..": true, "..": true, "/a/..": true, `/a\..\b`: true, "/...": false} {
		if Climbs(path) != want {
			t.Errorf("Climbs(%q) = %t", path, !want)
		}
	}
}

// The scanner finds in a JSON object what encoding/json finds.
func TestScannerAgreesWithJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(rapid.Just(any("model")), rapid.Map(rapid.String(), func(s string) any { return s }), rapid.Map(rapid.Float64Range(-1, 1), func(f float64) any { return f }),
			rapid.Just(any(nil)), rapid.Just(any(map[string]any{"model": "inner"})), rapid.Just(any([]any{"model", "x", map[string]any{"model": "y"}})))
		object := rapid.MapOf(rapid.OneOf(rapid.String(), rapid.Just("model")), value).Draw(t, "object")
		text, err := json.Marshal(object)
		if err != nil {
			t.Skip(err)
		}
		if rapid.Bool().Draw(t, "indent") {
			var b bytes.Buffer
			json.Indent(&b, text, " ", "\t")
			text = b.Bytes()
		}
		want, _ := object["model"].(string)
		if len(want) > maxModel/6 {
			t.Skip("longer than a name may be")
		}
		var s scanner
		for len(text) > 0 {
			n := rapid.IntRange(1, len(text)).Draw(t, "piece")
			s.feed(text[:n])
			text = text[n:]
		}
		if s.model != want {
			t.Fatalf("found %q, want %q", s.model, want)
		}
	})
}

func FuzzModel(f *testing.F) {
	for _, seed := range []string{`{"model":"m"}`, `{"a":[{"model":"x"}],"model":"m\u00e9"}`, `[{"model":1}]`, `{"model":"m"`, `{"\\":"\"","model":"m"}`, `}{`, `"`, `{"a":1,,"model":"m"}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		got := Model(bytes.NewReader(text), nil)
		var strict map[string]json.RawMessage
		d := json.NewDecoder(bytes.NewReader(text))
		if bytes.Count(text, []byte("odel")) <= 1 && !bytes.Contains(text, []byte(`\u`)) && d.Decode(&strict) == nil {
			want := ""
			json.Unmarshal(strict["model"], &want)
			if got != want && len(want) < maxModel/6 {
				t.Fatalf("found %q, want %q", got, want)
			}
		}
	})
}

func FuzzRoutes(f *testing.F) {
	f.Add("models.example.org", "/v1/chat/completions", "llama")
	f.Add("[::1]:80", "/v1/..", "")
	f.Add("*.example.org", "//", "org/llama")
	table := NewTable(services)
	f.Fuzz(func(t *testing.T, host, path, model string) {
		r := httptest.NewRequest(http.MethodPost, "http://x/", nil)
		r.Host, r.URL.Path = host, path
		got := table.Service(r, func() string { return model })
		if got < 0 || got >= len(services) {
			t.Fatalf("service %d, although one takes everything", got)
		}
		if name := services[got].Name; name == "model" && model != "llama" && model != "org/llama" {
			t.Fatalf("model %q goes to the service of others", model)
		}
		if strings.HasPrefix(services[got].Name, "v1") && !strings.HasPrefix(path, "/v1") {
			t.Fatalf("path %q goes to /v1", path)
		}
	})
}

func FuzzFacts(f *testing.F) {
	f.Add("8", "100", "1.5", "2", "100m")
	f.Fuzz(func(t *testing.T, batch, prompt, cost, timeout, grpc string) {
		r := httptest.NewRequest(http.MethodPost, "http://x/", nil)
		for name, v := range map[string]string{HeaderBatch: batch, HeaderPrompt: prompt, HeaderCost: cost, HeaderTimeout: timeout, "Grpc-Timeout": grpc} {
			r.Header[http.CanonicalHeaderKey(name)] = []string{v}
		}
		facts, err := FactsOf(r)
		if err != nil {
			return
		}
		if facts.Batch < -1 || facts.Prompt < -1 || (facts.Cost != -1 && !(facts.Cost > 0)) || (facts.Timeout != -1 && facts.Timeout < 0) {
			t.Fatalf("%+v", facts)
		}
	})
}
