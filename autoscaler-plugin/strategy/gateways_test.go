package strategy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// The gateways receive the number of replicas that must stay awake, with the class if there are
// several. An error is logged once and does not stop the evaluation.
func TestGatewaysAreToldWhatSleeps(t *testing.T) {
	status := http.StatusNoContent
	calls := make(chan string, 8)
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		calls <- fmt.Sprint(r.Method, " ", r.URL.Path, " ", string(body))
		w.WriteHeader(status)
		io.WriteString(w, "there is no sleep block")
	}))
	defer gateway.Close()
	var log bytes.Buffer
	p := New(hclog.New(&hclog.LoggerOptions{Output: &log}))
	address := strings.TrimPrefix(gateway.URL, "http://")
	if err := p.SetConfig(map[string]string{"learn_coldstart": "false", "learn_speed": "false", "gateways": address}); err != nil {
		t.Fatal(err)
	}
	run := func(config map[string]string, count, want int64) {
		t.Helper()
		got, err := p.Run(eval(18, 900, config), count)
		if err != nil || got.Action.Count != want {
			t.Fatalf("%d, %v; want a count of %d", got.Action.Count, err, want)
		}
	}
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-calls:
			if want != got {
				t.Errorf("told %s, want %s", got, want)
			}
		default:
			if want != "" {
				t.Errorf("told nothing, want %s", want)
			}
		}
	}
	run(map[string]string{"slots": "4"}, 20, 7)
	expect("")
	run(map[string]string{"slots": "4", "sleep": "3"}, 20, 10)
	expect(`PUT /v1/services/llm/awake {"class":"","replicas":7}`)
	classes := map[string]string{"class": "b", "classes": "a slots=4 max=2, b slots=4 max=9", "sleep": "1"}
	run(classes, 9, 5)
	expect(`PUT /v1/services/llm/awake {"class":"b","replicas":4}`)
	status = http.StatusConflict
	for range 3 {
		run(classes, 9, 5)
	}
	if n := strings.Count(log.String(), "there is no sleep block"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
}
