// Package consultoken gives every request to Consul the token that its file holds at
// that moment. Consul's own client reads the file once, takes an empty one for no
// token, and then asks anonymously, which answers as if nothing were registered.
package consultoken

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/hashicorp/consul/api"
)

// ErrEmpty is the error of a token file that holds nothing, as it does while
// somebody writes it.
var ErrEmpty = errors.New("the token file is empty")

// Read reads a token file.
func Read(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("token file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("%w: %s", ErrEmpty, path)
	}
	return token, nil
}

// NewClient makes a client of a configuration. Where that names a token file, the file
// is read for each request, and a request fails while it holds no token. Where the
// configuration has an HTTP client, that one sends the requests.
func NewClient(c *api.Config) (*api.Client, error) {
	if c.TokenFile == "" {
		return api.NewClient(c)
	}
	conf := *c
	if path, ok := strings.CutPrefix(conf.Address, "unix://"); ok {
		// Consul's client would replace the HTTP client by one of its own for the socket.
		conf.Address, conf.Scheme, conf.HttpClient = "localhost", "http", overSocket(path)
	}
	if conf.HttpClient == nil {
		var err error
		if conf.HttpClient, err = api.NewHttpClient(conf.Transport, conf.TLSConfig); err != nil {
			return nil, err
		}
	}
	client := *conf.HttpClient
	client.Transport = transport{client.Transport, conf.TokenFile}
	// The token stands for that of the file, so that the client does not look itself.
	conf.HttpClient, conf.Token, conf.TokenFile = &client, "of "+c.TokenFile, ""
	return api.NewClient(&conf)
}

// overSocket is an HTTP client of a Unix socket.
func overSocket(path string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}}
}

type transport struct {
	base http.RoundTripper
	path string
}

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := Read(t.path)
	if err != nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, err
	}
	r = r.Clone(r.Context())
	r.Header.Set("X-Consul-Token", token)
	return t.base.RoundTrip(r)
}
