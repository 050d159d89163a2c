package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"strings"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/internal/consultoken"
	"aliquot.example/ui"
)

// uiNomad returns a client configured by the NOMAD_* variables that limits the size of responses.
func uiNomad() (*nomad.Client, error) {
	c := nomad.DefaultConfig()
	base := http.DefaultTransport.(*http.Transport).Clone()
	base.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if path, ok := strings.CutPrefix(c.Address, "unix://"); ok { // the task's API socket
		base.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}
		c.Address = "http://127.0.0.1"
	}
	c.HttpClient = &http.Client{Transport: base}
	if err := nomad.ConfigureTLS(c.HttpClient, c.TLSConfig); err != nil {
		return nil, err
	}
	c.HttpClient.Transport = ui.OfNomad(base)
	return nomad.NewClient(c)
}

// uiConsul returns a client configured by the CONSUL_* variables that limits the size of
// responses.
func uiConsul() (*consul.Client, error) {
	c := consul.DefaultConfig()
	client, err := consul.NewHttpClient(c.Transport, c.TLSConfig)
	if err != nil {
		return nil, err
	}
	client.Transport = ui.OfConsul(client.Transport)
	c.HttpClient = client
	return consultoken.NewClient(c)
}
