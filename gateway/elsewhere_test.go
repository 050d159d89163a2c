package gateway_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"aliquot.example/gateway/match"
)

// named is a replica that answers with its name and the body that it got.
func named(t *testing.T, name string) *httptest.Server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		io.WriteString(w, name+" "+string(body))
	})
}

const only = "route {\n hosts = [\"none\"]\n}\n" // reached from other services alone

func TestARequestThatIsTurnedAwayGoesToTheFallback(t *testing.T) {
	nobody := "replicas_file = \"none\"\n"
	short := "queue {\n max_wait = \"50ms\"\n}\n"
	g := start(t, service("a", "fallback = \"b\"\n", short, nobody)+
		service("b", "fallback = \"c\"\n", only, short, nobody)+
		service("c", only, replicaBlock(named(t, "c"), "h100", 1)))
	for range 3 {
		r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader("body"))
		if status, text, _ := do(t, r); status != 200 || text != "c body" {
			t.Fatalf("%d %q", status, text)
		}
	}
	_, metrics, _ := get(t, g.admin+"/metrics")
	for _, want := range []string{`aliquot_gateway_fallbacks_total{service="a",to="b"} 3`, `aliquot_gateway_fallbacks_total{service="b",to="c"} 3`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	// The wait at the first two counts: of 100 ms what was left when a request entered them.
	text := g.metric(t, `aliquot_gateway_wait_seconds_sum{service="c"}`)
	if sum, err := strconv.ParseFloat(text, 64); err != nil || sum < 3*0.05 {
		t.Errorf("three requests waited %q seconds, want about 0.3", text)
	}
}

// So does a request that no replica of the service serves, if it is harmless to repeat.
func TestARequestThatFailsGoesToTheFallback(t *testing.T) {
	busy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	breaks := serve(t, func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) })
	short := "queue {\n max_wait = \"100ms\"\n}\n"
	for name, c := range map[string]struct {
		service, method string
		want            string
	}{
		"nobody there":                {service("a", "fallback = \"b\"\n", short, at(nobody(t))), http.MethodPost, "200 b body"},
		"nobody there, no retries":    {service("a", "fallback = \"b\"\n", short, at(nobody(t)), "upstream {\n retries = 0\n}\n"), http.MethodPost, "502"},
		"busy":                        {service("a", "fallback = \"b\"\n", replicaBlock(busy, "h100", 1)), http.MethodPost, "200 b body"},
		"broken, harmless":            {service("a", "fallback = \"b\"\n", replicaBlock(breaks, "h100", 1)), http.MethodPut, "200 b body"},
		"broken, perhaps acted on":    {service("a", "fallback = \"b\"\n", replicaBlock(breaks, "h100", 1)), http.MethodPost, "502"},
		"the fallback is busy, too":   {service("a", "fallback = \"c\"\n", replicaBlock(busy, "h100", 1)) + service("c", strings.Replace(only, "none", "nowhere", 1), replicaBlock(busy, "h100", 1)), http.MethodPost, "503"},
		"the fallback cannot take it": {service("a", "fallback = \"c\"\n", replicaBlock(busy, "h100", 1)) + service("c", strings.Replace(only, "none", "nowhere", 1), "engine {\n cache_salt = \"tenant\"\n}\n", replicaBlock(busy, "h100", 1)), http.MethodPost, "503"},
	} {
		g := start(t, c.service+service("b", only, replicaBlock(named(t, "b"), "h100", 1)))
		r, _ := http.NewRequest(c.method, g.url, strings.NewReader("body"))
		status, text, _ := do(t, r)
		if got := fmt.Sprintf("%d %s", status, text); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		eventually(t, name+": all slots are free", func() bool { return g.state(t, "a").busy()+g.state(t, "b").busy() == 0 })
	}
}

// A body that was coded twice is not taken for plain or for coded once.
func TestSeveralCodings(t *testing.T) {
	for _, codings := range [][]string{{"identity", "gzip"}, {"gzip", "gzip"}} {
		h := http.Header{"Content-Encoding": codings}
		if _, known := match.Decoded(strings.NewReader(""), h); known {
			t.Errorf("%q is known", codings)
		}
	}
}

// A few kilobytes that decode to megabytes take no room of their size: they go on as
// they came.
func TestABodyOfZerosIsNotHeldDecoded(t *testing.T) {
	got := make(chan string, 1)
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		got <- fmt.Sprint(r.Header.Get("Content-Encoding"), n)
	})
	g := start(t, service("a", "model = \"real\"\n", replicaBlock(replica, "h100", 1)))
	var body bytes.Buffer
	z := gzip.NewWriter(&body)
	io.WriteString(z, `{"model":"m","x":"`+strings.Repeat("a", 8<<20)+`"}`)
	z.Close()
	size := body.Len()
	r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", &body)
	r.Header.Set("Content-Encoding", "gzip")
	r.Header.Set("Content-Type", "application/json")
	if status, _, _ := do(t, r); status != 200 {
		t.Fatal(status)
	}
	if text := <-got; text != fmt.Sprint("gzip", size) {
		t.Errorf("the replica got %s, want gzip%d", text, size)
	}
}

// What is the tenant's own limit stays one, and where the fallback has no replica
// either the client is told so.
func TestAFallbackIsNoWayAroundLimits(t *testing.T) {
	hold := make(chan struct{})
	slow := serve(t, func(w http.ResponseWriter, r *http.Request) { <-hold })
	defer close(hold)
	g := start(t, "tenants {\n header = \"X-Tenant\"\n tenant \"t\" {\n max_active = 1\n max_queue = 1\n }\n}\n"+
		service("a", "fallback = \"b\"\n", replicaBlock(slow, "h100", 4))+
		service("b", only, "queue {\n max_wait = \"10ms\"\n}\n", replicaBlock(named(t, "b"), "h100", 1)))
	send := func() (int, string) {
		r, _ := http.NewRequest(http.MethodGet, g.url, nil)
		r.Header.Set("X-Tenant", "t")
		status, text, _ := do(t, r)
		return status, text
	}
	for range 2 {
		go http.DefaultClient.Do(func() *http.Request {
			r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url, nil)
			r.Header.Set("X-Tenant", "t")
			return r
		}())
	}
	eventually(t, "one is served and one waits", func() bool { s := g.state(t, "a"); return s.Queued == 1 && s.busy() == 1 })
	if status, text := send(); status != http.StatusTooManyRequests {
		t.Errorf("%d %q", status, text)
	}
}

// A model's alias is put right on the way to the replica, at every attempt, and all
// else of the body stays.
func TestAliases(t *testing.T) {
	var tries atomic.Int64
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if tries.Add(1)%2 == 1 {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, "%d %s", r.ContentLength, body)
	})
	g := start(t, service("a", "model = \"a-long-name\"\nroute {\n models = [\"x\", \"a-long-name\"]\n}\n", replicaBlock(replica, "h100", 8)))
	pad := strings.Repeat("model ", 20_000)
	for body, want := range map[string]string{
		`{"messages":"` + pad + `","model": "x" , "n":1}`: `{"messages":"` + pad + `","model": "a-long-name" , "n":1}`,
		`{"model":"a-long-name"}`:                         `{"model":"a-long-name"}`,
	} {
		for _, length := range []int64{int64(len(body)), -1} {
			r, _ := http.NewRequest(http.MethodPost, g.url, io.NopCloser(strings.NewReader(body)))
			r.ContentLength = length
			status, text, _ := do(t, r)
			got, rest, _ := strings.Cut(text, " ")
			if status != 200 || rest != want || length >= 0 && got != fmt.Sprint(len(want)) {
				t.Errorf("%d: length %s of %d, %.60q", status, got, len(want), rest)
			}
		}
	}
}

// However a body comes, the replica is told the name that it knows.
func TestAliasesInOtherBodies(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%d %q %s", r.ContentLength, r.Header.Get("Content-Encoding"), body)
	})
	g := start(t, service("a", "model = \"a-long-name\"\nroute {\n models = [\"x\"]\n}\n", replicaBlock(replica, "h100", 8))+
		"listen {\n address = \"127.0.0.1:0\"\n body_buffer = \"64KiB\"\n}\n")
	chat := func(model, pad string) string { return `{"model": "` + model + `", "messages": "` + pad + `"}` }
	form := func(model string) string {
		return "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n\"model\"\r\n--b\r\n" +
			"Content-Disposition: form-data; name=\"model\"\r\n\r\n" + model + "\r\n--b--\r\n"
	}
	zip := func(text string) string {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		io.WriteString(z, text)
		z.Close()
		return b.String()
	}
	long := strings.Repeat("abc ", 50_000)
	for name, c := range map[string]struct{ kind, coding, body, want string }{
		"compressed":              {"application/json", "gzip", zip(chat("x", "hi")), `"" ` + chat("a-long-name", "hi")},
		"a form":                  {"multipart/form-data; boundary=b", "", form("x"), `"" ` + form("a-long-name")},
		"longer than the bound":   {"application/json", "", chat("x", long), `"" ` + chat("a-long-name", long)},
		"too long to be decoded":  {"application/json", "gzip", zip(chat("x", long)), `"gzip" ` + zip(chat("x", long))},
		"none that can be undone": {"application/json", "gzip", zip(chat("x", "hi"))[:40], ""},
	} {
		r, _ := http.NewRequest(http.MethodPost, g.url, strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.kind)
		if c.coding != "" {
			r.Header.Set("Content-Encoding", c.coding)
		}
		status, text, _ := do(t, r)
		length, got, _ := strings.Cut(text, " ")
		_, body, _ := strings.Cut(c.want, " ")
		if c.want != "" && (status != 200 || got != c.want || length != fmt.Sprint(len(body))) {
			t.Errorf("%s: %d, length %s of %d, %.90q", name, status, length, len(body), got)
		}
		if c.want == "" && status != 404 && status != 200 {
			t.Errorf("%s: %d %s", name, status, text)
		}
	}
}

// What is longer than is decoded goes on as it came, not as its beginning.
func TestAVeryLongCompressedBodyIsNotCut(t *testing.T) {
	replica := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d %s", n, r.Header.Get("Content-Encoding"))
	})
	g := start(t, service("a", "model = \"other\"\nroute {\n models = [\"x\"]\n}\n", replicaBlock(replica, "", 1))+
		"listen {\n address = \"127.0.0.1:0\"\n body_buffer = \"128MiB\"\n body_memory = \"512MiB\"\n}\n")
	var body bytes.Buffer
	z, _ := gzip.NewWriterLevel(&body, gzip.BestSpeed)
	io.WriteString(z, `{"model":"x","pad":"`)
	io.CopyN(z, strings.NewReader(strings.Repeat("a", match.MaxDecoded)), match.MaxDecoded)
	io.WriteString(z, `"}`)
	z.Close()
	r, _ := http.NewRequest(http.MethodPost, g.url, bytes.NewReader(body.Bytes()))
	r.Header.Set("Content-Encoding", "gzip")
	if status, text, _ := do(t, r); status != 200 || text != fmt.Sprintf("%d gzip", body.Len()) {
		t.Errorf("%d %q, want the %d bytes that were sent", status, text, body.Len())
	}
}

// A coding that is not read is named, not the model that was not found.
func TestACodingThatIsNotReadIsNamed(t *testing.T) {
	g := start(t, service("a", "route {\n models = [\"x\"]\n}\n", replicaBlock(named(t, "a"), "h100", 1)))
	for _, coding := range []string{"br", "zstd"} {
		r, _ := http.NewRequest(http.MethodPost, g.url+"/v1/chat/completions", strings.NewReader("\x0b\x02\x80{}\x03"))
		r.Header.Set("Content-Encoding", coding)
		status, text, header := do(t, r)
		if status != http.StatusUnsupportedMediaType || !strings.Contains(text, coding) || header.Get("Accept-Encoding") != "gzip, deflate, identity" {
			t.Errorf("%s: %d %q, Accept-Encoding %q", coding, status, text, header.Get("Accept-Encoding"))
		}
	}
}

func TestASplitTakesItsPart(t *testing.T) {
	g := start(t, service("a", "split {\n to = \"b\"\n percent = 25\n}\n", replicaBlock(named(t, "a"), "h100", 8))+
		service("b", only, replicaBlock(named(t, "b"), "h100", 8)))
	count := map[string]int{}
	for range 400 {
		_, text, _ := get(t, g.url)
		count[strings.TrimSpace(text)]++
	}
	// 25% of 400 within six standard deviations.
	if n := count["b"]; n < 48 || n > 152 || count["a"]+n != 400 {
		t.Errorf("%v", count)
	}
}
