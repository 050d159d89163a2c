package consultoken

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/consul/api"
)

// A changed file takes effect. While it has no token, no request is sent, neither anonymous nor
// with the old token.
func TestTheFileIsReadForEachRequest(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Header.Get("X-Consul-Token"))
		_, _ = w.Write([]byte("{}"))
	}))
	defer server.Close()
	path := filepath.Join(t.TempDir(), "token")
	t.Setenv("CONSUL_HTTP_TOKEN", "of-the-environment")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	conf := api.DefaultConfig()
	conf.Address, conf.TokenFile = server.URL, path
	own := 0
	conf.HttpClient = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		own++
		return http.DefaultTransport.RoundTrip(r)
	})}
	client, err := NewClient(conf) // before the file exists
	if err != nil {
		t.Fatal(err)
	}
	ask := func() error {
		_, _, err := client.Catalog().Services(nil)
		return err
	}
	if err := ask(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	write("one\n")
	if err := ask(); err != nil {
		t.Error(err)
	}
	write(" \n")
	if err := ask(); !errors.Is(err, ErrEmpty) || !strings.Contains(err.Error(), path) {
		t.Errorf("with an empty file: %v", err)
	}
	write("two")
	if err := ask(); err != nil {
		t.Error(err)
	}
	if strings.Join(got, " ") != "one two" {
		t.Errorf("Consul was asked with %q", got)
	}
	if own != len(got) {
		t.Errorf("%d of %d requests went through the HTTP client of the configuration", own, len(got))
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// Requests to an agent on a Unix socket get the token of the file too.
func TestTheFileIsReadForRequestsOverASocket(t *testing.T) {
	dir := t.TempDir()
	socket, path := filepath.Join(dir, "consul.sock"), filepath.Join(dir, "token")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan string, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Header.Get("X-Consul-Token")
		_, _ = w.Write([]byte("{}"))
	})}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	if err := os.WriteFile(path, []byte("one\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := api.DefaultConfig()
	conf.Address, conf.TokenFile = "unix://"+socket, path
	client, err := NewClient(conf)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.Catalog().Services(nil); err != nil {
		t.Fatal(err)
	}
	if token := <-got; token != "one" {
		t.Errorf("Consul was asked with %q", token)
	}
}
