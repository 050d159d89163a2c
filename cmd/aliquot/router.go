package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hashicorp/cli"

	"aliquot.example/internal/gpu"
	"aliquot.example/router"
	"aliquot.example/router/config"
	"aliquot.example/router/control"
)

type routerCommand struct{ ui cli.Ui }

func (routerCommand) Synopsis() string {
	return "Route services in Consul by the speed of their hardware"
}

func (routerCommand) Help() string {
	return `Usage: aliquot router [-config <file>] [-check]

  Writes Consul config entries for every service that opts in, with the service
  meta aliquot_route = "true" or in the file: subsets by hardware class with
  failover, shares by healthy instances times hardware weight, and routes for the
  rules of the file. Several routers may run; one of them leads. On SIGHUP it
  reads the file again.

  The consul block of the file and the CONSUL_* variables name the Consul agent.

Options:

  -config  The configuration file, see docs/configuration.md. Without a file, all
           settings have their defaults.
  -check   Check the file and exit. Default false.

Example:

  aliquot router -config /etc/aliquot/router.hcl -check
`
}

func (c routerCommand) Run(args []string) int {
	return runService(c.ui, "router", args, config.Load, runRouter)
}

func runRouter(conf *config.Config, path string) error {
	var level slog.LevelVar
	_ = level.UnmarshalText([]byte(conf.LogLevel))
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: &level}))
	client, err := control.New(conf.Consul, conf.Owner, conf.Rates)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", conf.Admin)
	if err != nil {
		return fmt.Errorf("admin listener: %w", err)
	}
	r := router.New(conf, client, client, &control.Election{Client: client, Config: conf.Leader, Name: routerID(),
		Log: log}, log)
	server := &http.Server{Handler: r.Handler(), ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	log.Info("router starts", "admin", listener.Addr().String())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	go reloadRouter(ctx, r, path, &level, log)
	r.Run(ctx)
	return nil
}

// reloadRouter reads the file again on every SIGHUP. An invalid file changes nothing.
func reloadRouter(ctx context.Context, r *router.Router, path string, level *slog.LevelVar, log *slog.Logger) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
		}
		conf, err := config.Load(path)
		if err != nil {
			log.Error("configuration not reloaded; the old one stays in force", "error", err)
			continue
		}
		_ = level.UnmarshalText([]byte(conf.LogLevel))
		r.Reload(conf)
		log.Info("configuration reloaded")
	}
}

// routerID names this router by its allocation under Nomad, otherwise by its host and process.
func routerID() string {
	if alloc := os.Getenv("NOMAD_ALLOC_ID"); alloc != "" {
		return "aliquot-router-" + alloc
	}
	host, _ := os.Hostname()
	return fmt.Sprintf("aliquot-router-%s-%d", gpu.Slug(host), os.Getpid())
}
