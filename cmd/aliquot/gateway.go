package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hashicorp/cli"
	consul "github.com/hashicorp/consul/api"

	"aliquot.example/gateway"
	"aliquot.example/gateway/config"
	"aliquot.example/gateway/control"
	"aliquot.example/gateway/discovery"
	"aliquot.example/gateway/peers"
	"aliquot.example/internal/gpu"
	"aliquot.example/internal/ownership"
)

type gatewayCommand struct{ ui cli.Ui }

func (gatewayCommand) Synopsis() string { return "Run the HTTP gateway in front of model services" }

func (gatewayCommand) Help() string {
	return `Usage: aliquot gateway -config <file> [-check]

  Serves requests for model services. It keeps one queue per service and fills the
  fastest free slot first. On SIGTERM or SIGINT it finishes the requests in flight
  and exits. On SIGHUP it reads services, routes and tenants again.

Options:

  -config  The configuration file, see docs/configuration.md. Required.
  -check   Check the file and exit. Default false.

Example:

  aliquot gateway -config /etc/aliquot/gateway.hcl -check
`
}

func (c gatewayCommand) Run(args []string) int {
	flags := newFlags("gateway", c.ui)
	path := flags.String("config", "", "")
	check := flags.Bool("check", false, "")
	if !flags.parse(args) {
		return 2
	}
	if *path == "" {
		c.ui.Error("aliquot gateway: no configuration: want -config <file>; see aliquot gateway -help")
		return 2
	}
	if err := runGateway(*path, *check); err != nil {
		c.ui.Error("aliquot gateway: " + flat(err))
		return 1
	}
	if *check {
		c.ui.Output(*path + " is a valid configuration of the gateway")
	}
	return 0
}

func runGateway(path string, check bool) error {
	c, err := config.Load(path)
	if err == nil && check {
		err = c.Check()
	}
	if err != nil {
		return err
	}
	options, err := gatewayOptions(c)
	if err != nil {
		return err
	}
	server, err := gateway.New(c, options)
	if err != nil || check {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP)
	defer signal.Stop(reloads)
	go reloadGateway(ctx, server, path, options.Log, reloads)
	gateway.TuneHeap()
	return server.Run(ctx)
}

// reloadGateway reads the configuration again at every signal, until ctx ends. An invalid
// configuration changes nothing.
func reloadGateway(ctx context.Context, server *gateway.Server, path string, log *slog.Logger,
	signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
		c, err := config.Load(path)
		if err == nil {
			err = server.Reload(c)
		}
		if err != nil {
			log.Error("configuration not reloaded; the old one stays in force", "error", flat(err))
		}
	}
}

// gatewayOptions connects the gateway to Consul and Nomad, if the configuration names them.
func gatewayOptions(c *config.Config) (gateway.Options, error) {
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: c.LogLevel}))
	o := gateway.Options{Log: log}
	sources := discovery.Sources{Log: log}
	id := gatewayID(c.Listen.Address)
	if c.Consul != nil {
		client, err := control.NewConsul(c.Consul)
		if err != nil {
			return o, fmt.Errorf("consul: %w", err)
		}
		sources.Health, sources.ConsulToken = client.Health(), c.Consul.Token
		if c.Peers != nil {
			o.Peers = gatewayPeers(c, client, log)
		}
		if c.Consul.Publish {
			o.Rates = &control.Rates{Client: client, Config: c.Consul, Gateway: id}
		}
		if c.Consul.Register {
			r := &control.Registrar{Client: client, Config: c.Consul, Gateway: id}
			if c.Peers != nil {
				r.Peers = c.Peers.Advertise
			}
			o.Registrar = r
		}
	}
	if c.Nomad != nil {
		client, err := control.NewNomad(c.Nomad)
		if err != nil {
			return o, fmt.Errorf("nomad: %w", err)
		}
		sources.Services, sources.NomadToken = client.Services(), c.Nomad.Token
		o.Scaler = &control.Scaler{Client: client, Config: c.Nomad}
	}
	o.Source = func(s config.Service) (gateway.Source, error) { return sources.Of(s.Source), nil }
	return o, nil
}

// gatewayPeers connects this gateway to the others.
func gatewayPeers(c *config.Config, client *consul.Client, log *slog.Logger) *peers.Hub {
	o := peers.Options{
		Self: ownership.ID(c.Peers.Advertise), Address: c.Peers.Address, Log: log,
		Registry: &control.Registry{Client: client, Config: c.Consul, Log: log},
	}
	switch c.Peers.TLS {
	case "files":
		o.Security = peers.Secure(peers.Files{Cert: c.Peers.CertFile, Key: c.Peers.KeyFile, CA: c.Peers.CAFile})
	case "connect":
		o.Security = peers.Secure(&control.Identity{Client: client, Config: c.Consul})
	}
	return peers.New(o)
}

// gatewayID names this gateway by its allocation under Nomad, otherwise by its host and address,
// because several gateways may run on one host.
func gatewayID(listen string) string {
	if alloc := os.Getenv("NOMAD_ALLOC_ID"); alloc != "" {
		return "aliquot-gateway-" + alloc
	}
	host, _ := os.Hostname()
	return "aliquot-gateway-" + gpu.Slug(host+"-"+strings.TrimPrefix(listen, ":"))
}
