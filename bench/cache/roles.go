package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"aliquot.example/cache/hubtest"
)

// model is the repository that the origin has; file its one file.
const model, file = "bench/model", "model.safetensors"

// beOrigin is the Hub on a host until the context ends. It prints its URL.
func beOrigin(ctx context.Context, host string, size int64) error {
	hub, stop, err := hubtest.StartAt(host)
	if err != nil {
		return err
	}
	defer stop()
	hub.Push(model, "main", map[string]hubtest.File{file: {Body: hubtest.Bytes(1, int(size)), LFS: true}})
	fmt.Println(hub.URL)
	<-ctx.Done()
	return nil
}

// beFiles serves files on a host as net/http does, by sendfile. It prints its URL.
func beFiles(ctx context.Context, dir, host string) error {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: http.FileServer(http.Dir(dir)), ReadHeaderTimeout: 10 * time.Second}
	go func() { <-ctx.Done(); _ = server.Close() }()
	fmt.Println("http://" + l.Addr().String())
	_ = server.Serve(l)
	return nil
}
