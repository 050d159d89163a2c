package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/cli"
	"golang.org/x/net/netutil"

	"aliquot.example/ui"
)

type uiCommand struct{ ui cli.Ui }

func (uiCommand) Synopsis() string { return "Serve a page that shows the cluster and its services" }

func (uiCommand) Help() string {
	return `Usage: aliquot ui [-address=127.0.0.1:8686] [-no-consul] [-gateways=…]

  Serves a web page with the nodes, their GPUs and slices, the services with their
  queues and replicas, the autoscaler's decisions and their reasons, and events with
  their remedies. It reads Nomad, Consul and the gateways, and changes nothing.

  With Nomad's ACLs, a user signs in with a Nomad token that may read nodes, and the
  jobs of every namespace that NOMAD_TOKEN may read; see docs/ui.md. Nomad and Consul
  are found by the variables of their own commands (NOMAD_ADDR, NOMAD_TOKEN,
  CONSUL_HTTP_ADDR, …).

Options:

  -address    Address to listen on. Default 127.0.0.1:8686.
  -cert       File with a certificate, for HTTPS. Default none.
  -key        File with the key of -cert. Default none.
  -no-consul  Do not use Consul: use only the gateways in -gateways. Default false.
  -gateways   Admin addresses of gateways that are not in Consul, separated by commas.
  -prometheus Address of a Prometheus that scrapes the gateways, for history beyond
              the last hour. Default none.
  -nomad-ui   Address of Nomad's own web page for browsers, for links. Default none.

Example:

  NOMAD_ADDR=http://nomad.example.com:4646 aliquot ui -address=:8686
`
}

// uiFlags holds the parsed flags of the command.
type uiFlags struct {
	address, cert, key, gateways, nomadUI, prometheus string
	noConsul                                          bool
}

func (c uiCommand) Run(args []string) int {
	var f uiFlags
	flags := newFlags("ui", c.ui)
	flags.StringVar(&f.address, "address", "127.0.0.1:8686", "")
	flags.StringVar(&f.cert, "cert", "", "")
	flags.StringVar(&f.key, "key", "", "")
	flags.StringVar(&f.gateways, "gateways", "", "")
	flags.StringVar(&f.nomadUI, "nomad-ui", "", "")
	flags.StringVar(&f.prometheus, "prometheus", "", "")
	flags.BoolVar(&f.noConsul, "no-consul", false, "")
	if !flags.parse(args) {
		return 2
	}
	if err := f.check(); err != nil {
		c.ui.Error("aliquot ui: " + flat(err) + "; see aliquot ui -help")
		return 2
	}
	if err := runUI(f); err != nil {
		c.ui.Error("aliquot ui: " + flat(err))
		return 1
	}
	return 0
}

func (f uiFlags) check() error {
	if (f.cert == "") != (f.key == "") {
		return errors.New("-cert and -key belong together: give both or neither")
	}
	for flag, given := range map[string]struct{ address, example string }{
		"nomad-ui":   {f.nomadUI, "http://nomad.example.com:4646"},
		"prometheus": {f.prometheus, "http://prometheus.example.com:9090"},
	} {
		if u, err := url.Parse(given.address); given.address != "" &&
			(err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
			return fmt.Errorf("-%s=%s: want an address such as %s", flag, given.address, given.example)
		}
	}
	for _, g := range f.admins() {
		if _, _, err := net.SplitHostPort(g); err != nil {
			return fmt.Errorf("-gateways has %q: want host:port", g)
		}
	}
	return nil
}

func (f uiFlags) admins() []string {
	return strings.FieldsFunc(f.gateways, func(r rune) bool { return r == ',' || r == ' ' })
}

// maxConnections limits the connections of browsers, so that strangers cannot use up the
// program's file descriptors.
const maxConnections = 2000

func runUI(f uiFlags) error {
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil))
	o := ui.Options{Gateways: f.admins(), NomadUI: strings.TrimSuffix(f.nomadUI, "/"), Log: log}
	var err error
	if o.Nomad, err = uiNomad(); err != nil {
		return err
	}
	if !f.noConsul {
		if o.Consul, err = uiConsul(); err != nil {
			return err
		}
	}
	if f.prometheus != "" {
		if o.History, err = ui.Prometheus(f.prometheus); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", f.address)
	if err != nil {
		return err
	}
	listener = netutil.LimitListener(listener, maxConnections)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	server := ui.New(o)
	web := &http.Server{Handler: server.Handler(ctx), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10}
	failed := make(chan error, 1)
	go func() {
		if f.cert != "" {
			failed <- web.ServeTLS(listener, f.cert, f.key)
		} else {
			failed <- web.Serve(listener)
		}
	}()
	log.Info("serving the web page", "address", listener.Addr().String())
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		server.Run(ctx)
	}()
	select {
	case err := <-failed:
		stop()
		<-watched
		return err
	case <-ctx.Done():
	}
	leaving, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = web.Shutdown(leaving)
	<-watched
	return nil
}
