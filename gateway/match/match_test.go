package match

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"aliquot/gateway/config"
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
		got := table.Service(r, func() string { return NewBody(strings.NewReader(c.body)).Model(1 << 10) })
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
		` { "messages" : [ {"model":"no"} ] , "model" : "m" } `: "m",
		`{"prompt":"` + long + `","model":"m"}`:                 "m",
		`{"a":{"model":"no"},"b":["model","no"],"model":"m"}`:   "m",
		`{"a":"model","model":"m"}`:                             "m",
		`{"a":"say \"model\": \"no\"","model":"m"}`:             "m",
		`{"m\u006fdel":"a\/b\u00e9"}`:                           "a/bé",
		`{"model":5}`:                                           "",
		`{"model":null,"model":"second"}`:                       "",
		`{"model":{"model":"no"}}`:                              "",
		`["model","no"]`:                                        "",
		`"model"`:                                               "",
		`{}`:                                                    "",
		``:                                                      "",
		`{"model":"` + strings.Repeat("m", 600) + `"}`:          "",
		`model=no`:                                              "",
	} {
		for _, r := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text))} {
			b := NewBody(r)
			if got := b.Model(1 << 20); got != want {
				t.Errorf("%.60s: model %q, want %q", text, got, want)
			}
			for range 2 {
				if again, err := io.ReadAll(io.LimitReader(b, 1<<20)); err != nil || string(again) != text {
					t.Errorf("%.60s: replayed as %d bytes, %v", text, len(again), err)
				}
				if !b.Rewind() {
					break
				}
			}
		}
	}
}

func TestNoMoreThanTheLimitIsKept(t *testing.T) {
	text := `{"prompt":"` + strings.Repeat("x", 10000) + `","model":"m"}`
	b := NewBody(strings.NewReader(text))
	if got := b.Model(5000); got != "" || len(b.read) > 5000 {
		t.Errorf("model %q after %d bytes", got, len(b.read))
	}
	if again, _ := io.ReadAll(b); string(again) != text {
		t.Error("the body is not whole")
	}
	if b.Rewind() {
		t.Error("a body that was read beyond what is kept can be rewound")
	}
}

func TestAStoppedBodyIsNotRead(t *testing.T) {
	pr, pw := io.Pipe()
	b := NewBody(pr)
	reading := make(chan error)
	go func() {
		_, err := b.Read(make([]byte, 1))
		reading <- err
	}()
	for !b.busy() {
		runtime.Gosched()
	}
	b.Stop(func() { pw.CloseWithError(errors.New("aborted")) })
	if err := <-reading; err == nil {
		t.Error("the read under way returned no error")
	}
	if _, err := b.Read(make([]byte, 1)); err == nil {
		t.Error("a stopped body can be read")
	}
}

func (b *Body) busy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reading
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
		if len(want) > longestModel/6 {
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
		b := NewBody(bytes.NewReader(text))
		got := b.Model(1 << 12)
		again, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(again, text) {
			t.Fatalf("the body is not given as it came: %v", err)
		}
		var strict map[string]json.RawMessage
		d := json.NewDecoder(bytes.NewReader(text))
		if len(text) < 1<<12 && bytes.Count(text, []byte("odel")) <= 1 && !bytes.Contains(text, []byte(`\u`)) && d.Decode(&strict) == nil {
			want := ""
			json.Unmarshal(strict["model"], &want)
			if got != want && len(want) < longestModel/6 {
				t.Fatalf("found %q, want %q", got, want)
			}
		}
	})
}

// Whatever was looked at, read and begun again: the body is given as it came.
func FuzzBody(f *testing.F) {
	f.Add([]byte(`{"messages":["hello"],"model":"m"}`), 16, 3, 8)
	f.Add([]byte(`{"model":"m"} and more`), 4096, 100, 20)
	f.Fuzz(func(t *testing.T, text []byte, limit, piece, first int) {
		piece, limit = min(max(piece, 1), 1<<16), min(max(limit, 0), 1<<20)
		b := NewBody(&slow{text, piece})
		b.Model(limit)
		if len(b.read) > limit {
			t.Fatalf("%d bytes are kept, the limit is %d", len(b.read), limit)
		}
		begun, err := io.ReadAll(io.LimitReader(b, int64(first)))
		if err != nil {
			t.Fatal(err)
		}
		if b.Rewind() {
			begun = nil
		} else if len(begun) < len(b.read) {
			t.Fatalf("cannot begin again after %d of %d kept bytes", len(begun), len(b.read))
		}
		rest, err := io.ReadAll(b)
		if err != nil || !bytes.Equal(append(begun, rest...), text) || !b.Ended() {
			t.Fatalf("got %q then %q, %v, of %q", begun, rest, err, text)
		}
	})
}

// slow gives text in pieces.
type slow struct {
	text  []byte
	piece int
}

func (s *slow) Read(p []byte) (int, error) {
	if len(s.text) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.text[:min(s.piece, len(s.text))])
	s.text = s.text[n:]
	return n, nil
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
