package cache

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"aliquot.example/cache/hub"
	"aliquot.example/cache/local"
	"aliquot.example/cache/oci"
	"aliquot.example/cache/peer"
	"aliquot.example/cache/s3"
)

// listen opens all listeners.
func (d *Daemon) listen() error {
	d.compiled = d.snapshots()
	mux := http.NewServeMux()
	mux.Handle("/", local.Handler(d.library, d.token, d.Status))
	d.compiled.Local(mux)
	mux.HandleFunc("POST /v1/image", d.image)
	if err := d.listenSocket(mux); err != nil {
		return err
	}
	var err error
	if d.hfURL, err = d.serveOn("hf_listen", d.conf.HF, &hub.Handler{Library: d.library, Token: d.token,
		Log: d.log}); err != nil {
		return err
	}
	if err := d.listenS3(); err != nil {
		return err
	}
	registry := &oci.Handler{Library: d.library, Tickets: d.tickets, Log: d.log}
	registry.Token = func(namespace string) string { return d.token("oci", "", namespace, "") }
	if d.ociURL, err = d.serveOn("oci_listen", d.conf.OCIListen, registry); err != nil {
		return err
	}
	if _, err := d.serveOn("admin", d.conf.Admin, d.admin()); err != nil {
		return err
	}
	if d.conf.Peer == nil {
		return nil
	}
	l, err := d.listenTCP(d.conf.Peer.Listen)
	if err != nil {
		return fmt.Errorf("peer.listen: %w", err)
	}
	if files := d.files(); files != nil {
		if l, err = files.Listen(l); err != nil {
			return err
		}
	}
	peers := http.NewServeMux()
	peers.Handle("/", peer.Handler(d.cache, d.conf.Peer.Insecure, d.log))
	if d.compiled.Peers != nil {
		d.compiled.Peer(peers)
	}
	d.serve(l, peers, d.conf.ClientStall)
	return nil
}

func (d *Daemon) listenSocket(h http.Handler) error {
	at := d.conf.Socket
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("socket: %w", err)
	}
	l, err := net.Listen("unix", at)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	// Any client may mount any public model, so only root may connect.
	if err := os.Chmod(at, 0o600); err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	d.serve(l, h, 0) // archives of compile caches can have gigabytes
	return nil
}

// listenTCP listens for clients that may stop reading their answers.
func (d *Daemon) listenTCP(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	return stallListener{l, d.conf.ClientStall}, err
}

// serveOn serves on an address, and returns the URL; neither for "".
func (d *Daemon) serveOn(key, address string, h http.Handler) (url string, err error) {
	if address == "" {
		return "", nil
	}
	l, err := d.listenTCP(address)
	if err != nil {
		return "", fmt.Errorf("%s: %w", key, err)
	}
	d.serve(l, h, d.conf.ClientStall)
	return "http://" + l.Addr().String(), nil
}

func (d *Daemon) listenS3() (err error) {
	f := &s3.Handler{
		Library: d.library, Origin: d.s3, Domain: d.conf.S3API.Domain, Log: d.log,
		Token: func(scheme, name, namespace string) string { return d.token(scheme, name, namespace, "") },
	}
	if path := d.conf.S3API.KeysFile; path != "" {
		if f.Keys, err = s3.ReadKeys(path); err != nil {
			return err
		}
	}
	d.s3URL, err = d.serveOn("s3_listen", d.conf.S3API.Listen, f)
	return err
}

// serve serves a listener. It limits the time to receive a request, 0 for no limit, because
// requests over TCP are short. It does not limit the time of an answer.
func (d *Daemon) serve(l net.Listener, h http.Handler, within time.Duration) {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: within, IdleTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(d.log.Handler(), slog.LevelDebug),
	}
	d.servers = append(d.servers, s)
	go func() { _ = s.Serve(l) }()
}
