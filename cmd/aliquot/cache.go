package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/hashicorp/cli"

	"aliquot.example/cache"
	"aliquot.example/cache/config"
)

type cacheCommand struct{ ui cli.Ui }

func (cacheCommand) Synopsis() string {
	return "Keep models on this node and share them with other nodes"
}

func (cacheCommand) Help() string {
	return `Usage: aliquot cache [-config <file>] [-check]

  Runs the node's cache of models. Programs use it in place of the Hugging Face Hub
  (HF_ENDPOINT), of S3 (AWS_ENDPOINT_URL) and of image registries (docker pull). Caches
  share what they have, so each part of a model is read from its origin only once per
  cluster. The cache runs as root, because it makes files for read-only mounts.

Options:

  -config  The configuration file, see docs/configuration.md. Without a file, all
           settings have their defaults and the node has no peers.
  -check   Check the file and exit. Default false.

Example:

  aliquot cache -config /etc/aliquot/cache.hcl
`
}

func (c cacheCommand) Run(args []string) int {
	return runService(c.ui, "cache", args, config.Load, runCache)
}

func runCache(conf *config.Config, _ string) error {
	var level slog.LevelVar
	_ = level.UnmarshalText([]byte(conf.LogLevel))
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: &level}))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	daemon, err := cache.Start(ctx, conf, log)
	if err != nil {
		return err
	}
	defer daemon.Close()
	log.Info("cache starts", "dir", conf.Dir, "hf", conf.HF)
	<-ctx.Done()
	return nil
}
