package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// beFiles serves files with net/http, which uses sendfile. It prints its URL.
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
