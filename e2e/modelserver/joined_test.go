package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"aliquot.example/e2e/modelserver/hardware"
	"aliquot.example/gateway"
	"aliquot.example/gateway/config"
	"aliquot.example/gateway/discovery"
)

// behindGateway starts a batching server and a gateway in front of it, with the given settings of
// the service and of the gateway. It returns the addresses of the server, the gateway and the
// gateway's admin listener.
func behindGateway(t *testing.T, settings string, more ...string) (direct, public, admin string) {
	t.Helper()
	o := usual()
	o.model, o.engine, o.slots, o.speedup = "m", "h100", vllmSeqs, 50
	s := newServer(o)
	ctx, cancel := context.WithCancel(context.Background())
	s.load(ctx, &hardware.Hardware{Variant: "cpu"})
	replica := httptest.NewServer(s.routes())
	t.Cleanup(replica.Close)
	t.Cleanup(cancel)
	public, admin = startGateway(t, fmt.Sprintf("service \"m\" {\npolicy = \"tokens\"\n%s\nreplica {\n address = %q\n class = \"h100\"\n}\n}\n%s", settings, strings.TrimPrefix(replica.URL, "http://"), strings.Join(more, "\n")))
	return replica.URL, public, admin
}

// startGateway runs a gateway with the given configuration in this process.
func startGateway(t *testing.T, text string) (public, admin string) {
	t.Helper()
	text += "access_log = \"off\"\nlisten { address = \"127.0.0.1:0\" }\nadmin {\n address = \"127.0.0.1:0\"\n}\ndrain {\n delay = \"0s\"\n timeout = \"5s\"\n}\n"
	c, err := config.Parse([]byte(text), "test.hcl")
	if err != nil {
		t.Fatal(err)
	}
	sources := discovery.Sources{}
	g, err := gateway.New(c, gateway.Options{Source: func(s config.Service) (gateway.Source, error) { return sources.Of(s.Source), nil }})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(running) }()
	select {
	case <-g.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	public, admin = g.Addresses()
	return "http://" + public, "http://" + admin
}

// named matches what differs between two answers to the same request.
var named = regexp.MustCompile(`"(id":"[^"]*|created":\d+)`)

// A client cannot distinguish a joined answer from one that the engine does not stream: the bytes
// are the same, except for ID and time.
func TestJoinedAnswersAreTheEngines(t *testing.T) {
	direct, public, _ := behindGateway(t, "engine {\n join_answers = true\n}")
	for path, body := range map[string]string{
		"/v1/chat/completions": `{"model":"m","messages":[{"role":"user","content":"hello there"}],"max_tokens":%d}`,
		"/v1/completions":      `{"model":"m","prompt":"hello there","max_tokens":%d}`,
	} {
		for _, tokens := range []int{1, 2, 50} {
			var answers [2]string
			for i, url := range []string{direct, public} {
				res, err := http.Post(url+path, "application/json", strings.NewReader(fmt.Sprintf(body, tokens)))
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/json" {
					t.Fatalf("%s %v %s", res.Status, err, text)
				}
				answers[i] = named.ReplaceAllString(string(text), "")
			}
			if answers[0] != answers[1] {
				t.Errorf("%s, %d tokens:\n engine %s\n joined %s", path, tokens, answers[0], answers[1])
			}
		}
	}
	// The engine's refusals reach the client unchanged.
	const long = `{"model":"m","prompt":"x","max_tokens":0}`
	var refused [2]string
	for i, url := range []string{direct, public} {
		res, err := http.Post(url+"/v1/completions", "application/json", strings.NewReader(long))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		refused[i] = fmt.Sprint(res.StatusCode, string(text))
	}
	if refused[0] != refused[1] || !strings.HasPrefix(refused[0], "400") {
		t.Errorf("engine %s, joined %s", refused[0], refused[1])
	}
}
