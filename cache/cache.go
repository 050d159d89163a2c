// Package cache is the daemon on each node that keeps models, images and compile caches.
package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"aliquot.example/cache/config"
	"aliquot.example/cache/engine"
	"aliquot.example/cache/fetch"
	"aliquot.example/cache/models"
	"aliquot.example/cache/oci"
	"aliquot.example/cache/origin"
	"aliquot.example/cache/peer"
	"aliquot.example/cache/snapshots"
	"aliquot.example/cache/store"
	"aliquot.example/internal/cacheapi"
	"aliquot.example/internal/consultoken"
	"aliquot.example/internal/turn"
)

// Daemon is a running cache.
type Daemon struct {
	conf     *config.Config
	log      *slog.Logger
	store    *store.Store
	cache    *fetch.Cache
	library  *models.Library
	compiled *snapshots.Cache
	metrics  *fetch.Metrics
	members  *peer.Members
	network  *peer.Network // nil without peers
	servers  []*http.Server
	undo     []func()
	running  sync.WaitGroup
	hfURL    string            // URL of the Hub's endpoint
	s3       *origin.S3Servers // nil without one
	s3URL    string            // its URL
	ociURL   string            // the same of the endpoint of registries
	tickets  *oci.Tickets
}

// Start starts a cache. The caller must call Close.
func Start(ctx context.Context, conf *config.Config, log *slog.Logger) (*Daemon, error) {
	d := &Daemon{conf: conf, log: log, metrics: fetch.NewMetrics(), tickets: oci.NewTickets()}
	if err := d.start(ctx); err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

func (d *Daemon) start(ctx context.Context) (err error) {
	conf, log := d.conf, d.log
	bounds := store.Options{Capacity: conf.Capacity, KeepFree: conf.KeepFree, Evicted: d.metrics.Evicted, Log: log}
	if d.store, err = store.Open(conf.Dir, bounds); err != nil {
		return err
	}
	origins, err := d.origins()
	if err != nil {
		return err
	}
	options := fetch.Options{Store: d.store, Origins: origins, OriginRate: conf.OriginRate, PeerRate: conf.PeerRate,
		OriginStall: conf.OriginStall, Log: log, Metrics: d.metrics}
	if conf.Peer != nil {
		d.members = peer.NewMembers(conf.Peer.Advertise, conf.Peer.Known)
		d.network = d.newNetwork()
		options.Network = d.network
	}
	d.cache = fetch.New(options)
	if d.library, err = models.New(d.cache, origins, log); err != nil {
		return err
	}
	if err := d.listen(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	d.undo = append(d.undo, cancel)
	if d.network != nil {
		d.running.Go(func() { d.network.KeepWarm(ctx) })
	}
	return errors.Join(d.join(ctx), d.prefetch(ctx))
}

func (d *Daemon) origins() (origin.Set, error) {
	client := origin.NewClient()
	h := &origin.Hub{Endpoint: d.conf.Hub.Endpoint, Client: client}
	if d.conf.Hub.TokenFile != "" {
		token, err := consultoken.Read(d.conf.Hub.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("huggingface: %w", err)
		}
		h.Token = token
	}
	web := origin.Web{Client: client}
	set := origin.Set{
		"hf": h, "http": web, "https": web, "file": origin.Disk{Root: d.conf.Files},
		"oci": &origin.OCI{Client: client, AuthFile: d.conf.OCI.AuthFile, Plain: d.conf.OCI.Plain},
	}
	for _, c := range d.conf.S3 {
		server, err := origin.NewS3(origin.S3Options{
			Endpoint: c.Endpoint, Region: c.Region, PathStyle: c.PathStyle, Anonymous: c.Anonymous,
			CredentialsFile: c.CredentialsFile, Profile: c.Profile, ETagIsMD5: c.ETagIsMD5, Client: client,
			Key: c.Key(),
		})
		if err != nil {
			return nil, err
		}
		if d.s3 == nil {
			d.s3 = &origin.S3Servers{}
			set["s3"] = d.s3
		}
		d.s3.Add(server, c.Buckets)
	}
	return set, nil
}

func (d *Daemon) files() *peer.Files {
	p := d.conf.Peer
	if p.Insecure {
		return nil
	}
	return &peer.Files{CA: p.CA, Cert: p.Cert, Key: p.Key, ServerName: p.Name}
}

func (d *Daemon) newNetwork() *peer.Network {
	files := d.files()
	n := &peer.Network{Members: d.members, Client: peer.NewClient(files), Files: files, Scheme: "https"}
	if d.conf.Peer.Insecure {
		n.Scheme = "http"
	}
	return n
}

// snapshots makes the cache of what model servers compiled. It is shared with caches that
// prove who they are, as it holds code.
func (d *Daemon) snapshots() *snapshots.Cache {
	s := &snapshots.Cache{Store: d.store, Log: d.log, Count: d.metrics.Snapshot, Sent: d.cache.Sent}
	if d.members != nil && !d.conf.Peer.Insecure {
		s.Peers, s.Client = d.members.Peers, d.network.Client
	}
	return s
}

func (d *Daemon) admin() http.Handler {
	mux := http.NewServeMux()
	metrics := promhttp.HandlerFor(d.metrics.Registry, promhttp.HandlerOpts{})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		d.cache.Measure()
		metrics.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(d.Status())
	})
	return mux
}

// consul returns a client with the settings of the file and, where these are empty, of the CONSUL_*
// variables.
func (d *Daemon) consul() (*api.Client, error) {
	conf := api.DefaultConfig()
	for to, from := range map[*string]string{
		&conf.Address: d.conf.Consul.Address, &conf.TokenFile: d.conf.Consul.TokenFile,
		&conf.TLSConfig.CAFile:   d.conf.Consul.CAFile,
		&conf.TLSConfig.CertFile: d.conf.Consul.CertFile, &conf.TLSConfig.KeyFile: d.conf.Consul.KeyFile,
		&conf.TLSConfig.Address: d.conf.Consul.ServerName,
	} {
		if from != "" {
			*to = from
		}
	}
	client, err := consultoken.NewClient(conf)
	if err != nil {
		return nil, fmt.Errorf("consul client: %w", err)
	}
	return client, nil
}

// join makes the node a peer of the others.
func (d *Daemon) join(ctx context.Context) error {
	p := d.conf.Peer
	if p == nil || p.Service == "" {
		return nil
	}
	client, err := d.consul()
	if err != nil {
		return err
	}
	if p.Register {
		undo, err := peer.Register(client, p.Service, p.Advertise)
		if err != nil {
			return err
		}
		d.undo = append(d.undo, undo)
	}
	go d.members.Follow(ctx, client, p.Service, d.log)
	return nil
}

// prefetch fetches the items of the node's lists.
func (d *Daemon) prefetch(ctx context.Context) error {
	c := d.conf.Prefetch
	if c.Key == "" && len(c.Models) == 0 {
		return nil
	}
	host, _ := os.Hostname()
	p := &prefetcher{library: d.library, compileCache: d.compiled, key: c.Key, groups: c.Groups, fixed: c.Models,
		self: fmt.Sprintf("%s-%d-%s", host, os.Getpid(), d.conf.Dir), log: d.log}
	if c.Docker != "" {
		p.engine, p.registry = engine.New(c.Docker), strings.TrimPrefix(d.ociURL, "http://")
	}
	if c.Key != "" {
		var err error
		if p.client, err = d.consul(); err != nil {
			return err
		}
		p.turns = turn.Turns{Client: p.client, Prefix: c.Key + "-turns", Max: c.AtOnce, Lapse: time.Hour}
	}
	d.running.Go(func() { p.run(ctx) })
	return nil
}

// Status returns the state of the cache.
func (d *Daemon) Status() cacheapi.Status {
	st := d.store.Stats()
	s := cacheapi.Status{Objects: st.Objects, Bytes: st.Bytes, Free: st.Free, Room: st.Room, Models: d.library.Models(),
		Held: d.library.Held(), Pins: d.store.Pins(), HF: d.hfURL, S3: d.s3URL, OCI: d.ociURL, Peers: []string{}}
	if d.members != nil {
		s.Self, s.Peers = d.members.Peers()
	}
	return s
}

// Close stops everything that Start has started.
func (d *Daemon) Close() {
	for _, undo := range slices.Backward(d.undo) {
		undo()
	}
	d.running.Wait()
	for _, s := range d.servers {
		_ = s.Close()
	}
	if d.library != nil {
		d.library.Close()
	}
	if d.store != nil {
		_ = d.store.Close()
	}
}
