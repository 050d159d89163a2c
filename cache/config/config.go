// Package config reads the cache's configuration file.
package config

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"aliquot.example/internal/blob"
	"aliquot.example/internal/cacheapi"
	"aliquot.example/internal/hclfile"
)

// clientStall is the ClientStall of every cache: a program that reads a model may do other work for
// a while between two reads.
const clientStall = 2 * time.Minute

// Config is a valid configuration.
type Config struct {
	LogLevel string
	// Dir is the directory of the store, Socket the Unix socket for programs of the node.
	Dir, Socket string
	// HF and Admin are listen addresses of the Hub's endpoint and of metrics, "" for none.
	HF, Admin string
	// Capacity and KeepFree limit the store, in bytes; 0 for no limit.
	Capacity, KeepFree int64
	// OriginRate and PeerRate limit traffic, in bytes per second; 0 for no limit.
	OriginRate, PeerRate int64
	// OriginStall is how long an origin may send nothing before the cache asks again.
	OriginStall time.Duration
	// ClientStall is how long a client may read nothing of an answer, and the time limit for
	// receiving its request. No key of the file sets it.
	ClientStall time.Duration
	Hub         Hub
	S3          []*S3 // servers; at most one without Buckets
	S3API       S3API
	OCI         OCI
	OCIListen   string // address of the registries' endpoint, "" for none
	// Files is the directory that file:// models lie below, "" for none.
	Files    string
	Peer     *Peer // nil without peers
	Prefetch Prefetch
	Consul   Consul
}

// Prefetch configures what is fetched to the node before it is needed.
type Prefetch struct {
	// Models are fetched in addition to the lists in Consul: models, images and compile caches in
	// the form that blob.ParseItem reads.
	Models []string
	// Docker is the container engine's socket, for pulling images; "" to pull none.
	Docker string
	// Key is the prefix of the lists in Consul KV, "" for none; Groups are the lists' names.
	Key    string
	Groups []string
	// AtOnce limits the nodes that fetch at the same time; 0 for no limit.
	AtOnce int
}

// Peer configures how the caches of a cluster reach each other.
type Peer struct {
	Listen string
	// Advertise is the address at which other nodes reach this one.
	Advertise string
	// Service is the name of the caches' service in Consul, "" to use only the peers in Known.
	Service string
	// Register is true if the cache registers itself in Consul.
	Register            bool
	Known               []string
	CA, Cert, Key, Name string
	// Insecure is true if peers are connected without TLS.
	Insecure bool
}

// Consul is the connection to the agent. The CONSUL_* variables replace empty fields.
type Consul struct {
	Address, TokenFile, CAFile, CertFile, KeyFile, ServerName string
}

type fileBody struct {
	LogLevel   *string       `hcl:"log_level,optional"`
	Dir        *string       `hcl:"dir,optional"`
	Socket     *string       `hcl:"socket,optional"`
	HF         *string       `hcl:"hf_listen,optional"`
	S3Listen   *string       `hcl:"s3_listen,optional"`
	OCIListen  *string       `hcl:"oci_listen,optional"`
	S3Domain   *string       `hcl:"s3_domain,optional"`
	S3Keys     *string       `hcl:"s3_keys_file,optional"`
	Admin      *string       `hcl:"admin,optional"`
	Capacity   *string       `hcl:"capacity,optional"`
	KeepFree   *string       `hcl:"keep_free,optional"`
	OriginRate *string       `hcl:"origin_rate,optional"`
	PeerRate   *string       `hcl:"peer_rate,optional"`
	Stall      *string       `hcl:"origin_stall,optional"`
	Files      *string       `hcl:"files,optional"`
	Hub        *hubBody      `hcl:"huggingface,block"`
	S3         []*s3Body     `hcl:"s3,block"`
	OCI        *ociBody      `hcl:"oci,block"`
	Peer       *peerBody     `hcl:"peer,block"`
	Prefetch   *prefetchBody `hcl:"prefetch,block"`
	Consul     *consulBody   `hcl:"consul,block"`
}

type prefetchBody struct {
	Models []string `hcl:"models,optional"`
	Docker *string  `hcl:"docker,optional"`
	Key    *string  `hcl:"key,optional"`
	Groups []string `hcl:"groups,optional"`
	AtOnce *int     `hcl:"at_once,optional"`
}

type peerBody struct {
	Listen    *string  `hcl:"listen,optional"`
	Advertise *string  `hcl:"advertise,optional"`
	Service   *string  `hcl:"service,optional"`
	Register  *bool    `hcl:"register,optional"`
	Known     []string `hcl:"known,optional"`
	CA        *string  `hcl:"ca_file,optional"`
	Cert      *string  `hcl:"cert_file,optional"`
	Key       *string  `hcl:"key_file,optional"`
	Name      *string  `hcl:"server_name,optional"`
	Insecure  *bool    `hcl:"insecure,optional"`
}

type consulBody struct {
	Address    *string `hcl:"address,optional"`
	TokenFile  *string `hcl:"token_file,optional"`
	CAFile     *string `hcl:"ca_file,optional"`
	CertFile   *string `hcl:"cert_file,optional"`
	KeyFile    *string `hcl:"key_file,optional"`
	ServerName *string `hcl:"tls_server_name,optional"`
}

// Load reads a file; "" gives the defaults. Its error is one line with the file, the key and what
// to do.
func Load(path string) (*Config, error) {
	text, name, err := hclfile.Read(path)
	if err != nil {
		return nil, err
	}
	return Parse(text, name)
}

// Parse parses a configuration; name is the file name for errors.
func Parse(text []byte, name string) (*Config, error) {
	var body fileBody
	if err := hclfile.Decode(text, name, nil, &body, "s3"); err != nil {
		return nil, err
	}
	c, err := body.config()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

func (b fileBody) config() (*Config, error) {
	c := &Config{
		LogLevel: or(b.LogLevel, "info"), Dir: or(b.Dir, "/var/lib/aliquot/cache"),
		Socket: or(b.Socket, cacheapi.Socket),
		HF:     or(b.HF, "127.0.0.1:7480"), Admin: or(b.Admin, "127.0.0.1:7481"), OCIListen: or(b.OCIListen, ""),
		Files: or(b.Files, ""),
	}
	if n := b.Consul; n != nil {
		c.Consul = Consul{or(n.Address, ""), or(n.TokenFile, ""), or(n.CAFile, ""), or(n.CertFile, ""),
			or(n.KeyFile, ""), or(n.ServerName, "")}
	}
	errs := b.origins(c)
	if p := b.Prefetch; p != nil {
		c.Prefetch = Prefetch{Models: p.Models, Docker: or(p.Docker, "/var/run/docker.sock"), Key: or(p.Key, ""),
			Groups: p.Groups, AtOnce: or(p.AtOnce, 2)}
		if p.Groups == nil {
			c.Prefetch.Groups = []string{"all"}
		}
		errs = append(errs, c.Prefetch.check())
	}
	for _, s := range []struct {
		key, usual string
		text       *string
		to         *int64
	}{
		{"capacity", "0", b.Capacity, &c.Capacity}, {"keep_free", "10GiB", b.KeepFree, &c.KeepFree},
		{"origin_rate", "0", b.OriginRate, &c.OriginRate}, {"peer_rate", "0", b.PeerRate, &c.PeerRate},
	} {
		n, err := Size(or(s.text, s.usual))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.key, err))
		}
		*s.to = n
	}
	stall, err := time.ParseDuration(or(b.Stall, "10s"))
	if err != nil || stall < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("origin_stall is %q: want a duration such as \"10s\", at least 100ms",
			or(b.Stall, "")))
	}
	c.OriginStall, c.ClientStall = stall, clientStall
	errs = append(errs, c.check(), c.peer(b.Peer))
	for _, err := range errs {
		if err != nil {
			return nil, err // only the first error, in one line
		}
	}
	return c, nil
}

func or[T any](given *T, usual T) T {
	if given != nil {
		return *given
	}
	return usual
}

func (c *Config) check() error {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.LogLevel) {
		return fmt.Errorf("log_level is %q: want debug, info, warn or error", c.LogLevel)
	}
	for key, path := range map[string]string{"dir": c.Dir, "socket": c.Socket, "files": c.Files,
		"prefetch.docker": c.Prefetch.Docker} {
		if !filepath.IsAbs(path) && (path != "" || key == "dir") {
			return fmt.Errorf("%s is %q: want an absolute path", key, path)
		}
	}
	for key, address := range map[string]string{"hf_listen": c.HF, "s3_listen": c.S3API.Listen,
		"oci_listen": c.OCIListen, "admin": c.Admin} {
		if _, _, err := net.SplitHostPort(address); address != "" && err != nil {
			return fmt.Errorf("%s is %q: want host:port, or \"\" for none", key, address)
		}
	}
	if host, _, err := net.SplitHostPort(c.HF); err == nil && (host == "" || net.ParseIP(host).IsUnspecified()) {
		return fmt.Errorf("hf_listen is %q: want an address that tasks can reach, such as 127.0.0.1:7480, "+
			"because tasks receive it unchanged", c.HF)
	}
	return nil
}

func (p Prefetch) check() error {
	for _, name := range p.Models {
		if _, err := blob.ParseItem(name); err != nil {
			return fmt.Errorf("prefetch.models: %w", err)
		}
	}
	if p.AtOnce < 0 {
		return fmt.Errorf("prefetch.at_once is %d: want 0 for no limit, or a positive number", p.AtOnce)
	}
	return nil
}

func (c *Config) peer(b *peerBody) error {
	if b == nil {
		return nil
	}
	p := &Peer{
		Listen: or(b.Listen, ":7482"), Advertise: or(b.Advertise, ""), Service: or(b.Service, "aliquot-cache"),
		Register: or(b.Register, true), Known: b.Known,
		CA: or(b.CA, ""), Cert: or(b.Cert, ""), Key: or(b.Key, ""), Name: or(b.Name, "aliquot-cache"),
		Insecure: or(b.Insecure, false),
	}
	if p.Advertise == "" {
		p.Advertise = p.Listen
	}
	if err := p.check(); err != nil {
		return err
	}
	c.Peer = p
	return nil
}

// check returns an error for addresses that other nodes cannot reach, and for incomplete
// certificate settings.
func (p *Peer) check() error {
	host, port, err := net.SplitHostPort(p.Advertise)
	switch {
	case err != nil || host == "" || port == "" || port == "0" || net.ParseIP(host).IsUnspecified():
		return fmt.Errorf("peer.advertise is %q: want the host:port at which other nodes reach this one", p.Advertise)
	case p.Insecure && p.CA+p.Cert+p.Key != "":
		return errors.New("peer.insecure cannot be combined with ca_file, cert_file or key_file: " +
			"remove one or the other")
	case !p.Insecure && (p.CA == "" || p.Cert == "" || p.Key == ""):
		return errors.New("peer needs ca_file, cert_file and key_file, or insecure = true on a " +
			"trusted network")
	}
	for _, k := range p.Known {
		if _, _, err := net.SplitHostPort(k); err != nil {
			return fmt.Errorf("peer.known has %q: want host:port", k)
		}
	}
	return nil
}

// Size parses a number of bytes such as "500GiB".
func Size(text string) (int64, error) {
	number, factor := text, int64(1)
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if n, ok := strings.CutSuffix(text, unit); ok {
			number, factor = n, 1<<(10*(i+1))
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
	if err != nil || n < 0 || n > 1<<60/factor {
		return 0, fmt.Errorf("%q: want a number of bytes such as \"500GiB\"", text)
	}
	return n * factor, nil
}
