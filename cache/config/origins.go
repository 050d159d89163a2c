package config

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// Hub configures the Hugging Face Hub as an origin.
type Hub struct {
	Endpoint, TokenFile string
	// Namespaces are the Nomad namespaces whose tasks may use the token.
	Namespaces Namespaces
}

// S3 configures a server with the S3 protocol.
type S3 struct {
	// Name is the label of its block, "" if it has none.
	Name string
	// Buckets are the buckets that it serves; nil for all that no other server serves.
	Buckets                                    []string
	Endpoint, Region, CredentialsFile, Profile string
	PathStyle, Anonymous, ETagIsMD5            bool
	// Namespaces are the Nomad namespaces whose tasks may use the keys.
	Namespaces Namespaces
}

// OCI configures image registries as origins.
type OCI struct {
	// AuthFile is a file in the format of Docker's config.json with the node's own credentials; ""
	// for none.
	AuthFile string
	// Plain are the hosts to access without TLS.
	Plain []string
	// Namespaces are the Nomad namespaces whose tasks may use the credentials.
	Namespaces Namespaces
}

// S3API is what unchanged clients of S3 read from.
type S3API struct {
	// Listen is its address, "" for none.
	Listen string
	// Domain is the domain whose subdomains are buckets.
	Domain string
	// KeysFile has the keys that the endpoint accepts, "" to accept everyone who reaches it.
	KeysFile string
}

// Namespaces are Nomad namespaces, or "*" for all of them and for clients without one.
type Namespaces []string

// Holds reports whether n contains a namespace; "" is a client without one.
func (n Namespaces) Holds(namespace string) bool {
	return slices.Contains(n, "*") || namespace != "" && slices.Contains(n, namespace)
}

func (n Namespaces) check(key string) error {
	if slices.Contains(n, "") {
		return fmt.Errorf("%s has an empty name: want Nomad namespaces, or \"*\" for all", key)
	}
	return nil
}

type hubBody struct {
	Endpoint   *string  `hcl:"endpoint,optional"`
	TokenFile  *string  `hcl:"token_file,optional"`
	Namespaces []string `hcl:"namespaces,optional"`
}

type s3Body struct {
	Name            string   `hcl:"name,label"`
	Buckets         []string `hcl:"buckets,optional"`
	Endpoint        *string  `hcl:"endpoint,optional"`
	Region          *string  `hcl:"region,optional"`
	PathStyle       *bool    `hcl:"path_style,optional"`
	CredentialsFile *string  `hcl:"credentials_file,optional"`
	Profile         *string  `hcl:"profile,optional"`
	Anonymous       *bool    `hcl:"anonymous,optional"`
	ETagIsMD5       *bool    `hcl:"etag_is_md5,optional"`
	Namespaces      []string `hcl:"namespaces,optional"`
}

type ociBody struct {
	AuthFile   *string  `hcl:"auth_file,optional"`
	Plain      []string `hcl:"plain_http,optional"`
	Namespaces []string `hcl:"namespaces,optional"`
}

func (b fileBody) origins(c *Config) []error {
	c.Hub = Hub{"https://huggingface.co", "", Namespaces{"*"}}
	if h := b.Hub; h != nil {
		c.Hub.Endpoint, c.Hub.TokenFile = strings.TrimSuffix(or(h.Endpoint, c.Hub.Endpoint), "/"), or(h.TokenFile, "")
		if h.Namespaces != nil {
			c.Hub.Namespaces = h.Namespaces
		}
	}
	c.S3API = S3API{or(b.S3Listen, ""), or(b.S3Domain, "localhost"), or(b.S3Keys, "")}
	return []error{
		isURL("huggingface.endpoint", c.Hub.Endpoint), c.Hub.Namespaces.check("huggingface.namespaces"),
		c.s3(b.S3), c.S3API.check(), c.oci(b.OCI),
	}
}

func isURL(key, text string) error {
	if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%s is %q: want a URL such as https://huggingface.co", key, text)
	}
	return nil
}

// s3 reads the S3 servers. Each bucket belongs to one of them.
func (c *Config) s3(blocks []*s3Body) error {
	names, buckets := map[string]bool{}, map[string]string{}
	var shared *S3 // the first server that uses the keys in the environment
	for _, b := range blocks {
		s := b.server()
		if err := s.check(); err != nil {
			return err
		}
		if names[s.Name] {
			return fmt.Errorf("there are two %s blocks: give each its own label", s.block())
		}
		names[s.Name] = true
		if s.CredentialsFile == "" && !s.Anonymous {
			if shared == nil {
				shared = s
			}
			if shared.owner() != s.owner() {
				return fmt.Errorf("%s and %s are different servers without credentials_file, and both would use the "+
					"keys from the environment: set credentials_file, or anonymous = true", shared.block(), s.block())
			}
		}
		served := s.Buckets
		if len(served) == 0 {
			served = []string{""}
		}
		for _, name := range served {
			other, taken := buckets[name]
			switch {
			case taken && name == "":
				return fmt.Errorf("%s and %s both have no buckets: list the buckets of one of them; the other "+
					"then serves all other buckets", other, s.block())
			case taken:
				return fmt.Errorf("bucket %q is in %s and in %s: list it in one of them", name, other, s.block())
			}
			buckets[name] = s.block()
		}
		c.S3 = append(c.S3, s)
	}
	return nil
}

// owner identifies the owner of a server: the keys of one account are valid for all endpoints of
// Amazon.
func (s *S3) owner() string {
	host := ""
	if u, err := url.Parse(s.Endpoint); err == nil {
		host = strings.ToLower(u.Host)
	}
	for _, amazon := range []string{"amazonaws.com", "amazonaws.com.cn"} {
		if strings.HasSuffix(host, "."+amazon) {
			return amazon
		}
	}
	return host
}

// block is the name of the server's block in errors.
func (s *S3) block() string {
	if s.Name == "" {
		return "s3"
	}
	return fmt.Sprintf("s3 %q", s.Name)
}

func (b *s3Body) server() *S3 {
	return &S3{
		Name: b.Name, Buckets: b.Buckets,
		Endpoint:        strings.TrimSuffix(or(b.Endpoint, "https://s3.amazonaws.com"), "/"),
		Region:          or(b.Region, "us-east-1"),
		CredentialsFile: or(b.CredentialsFile, ""), Profile: or(b.Profile, ""), Namespaces: b.Namespaces,
		PathStyle: or(b.PathStyle, false), Anonymous: or(b.Anonymous, false), ETagIsMD5: or(b.ETagIsMD5, true),
	}
}

// Key is the name of the server's block in errors about one of its keys.
func (s *S3) Key() string {
	if s.Name == "" {
		return "s3"
	}
	return "s3." + s.Name
}

func (s *S3) check() error {
	key := s.Key()
	switch u, err := url.Parse(s.Endpoint); {
	case err != nil || u.Host == "" || u.Path != "" || u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%s.endpoint is %q: want a URL without a path, such as https://s3.eu-central-1.amazonaws.com",
			key, s.Endpoint)
	case s.CredentialsFile != "" && !filepath.IsAbs(s.CredentialsFile):
		return fmt.Errorf("%s.credentials_file is %q: want an absolute path", key, s.CredentialsFile)
	case s.Anonymous && (s.CredentialsFile != "" || len(s.Namespaces) > 0):
		return fmt.Errorf("%s.anonymous cannot be combined with credentials_file or namespaces: "+
			"remove one or the other", key)
	case !s.Anonymous && len(s.Namespaces) == 0:
		return fmt.Errorf("%s.namespaces is missing: name the Nomad namespaces whose tasks may use these "+
			"credentials, [\"*\"] for all, or set anonymous = true", key)
	}
	if err := s.checkBuckets(key); err != nil {
		return err
	}
	return s.Namespaces.check(key + ".namespaces")
}

func (s *S3) checkBuckets(key string) error {
	if s.Buckets != nil && len(s.Buckets) == 0 {
		return fmt.Errorf("%s.buckets is empty: list the server's buckets, or omit it to serve all buckets that no "+
			"other block lists", key)
	}
	if i := slices.IndexFunc(s.Buckets, notABucket); i >= 0 {
		return fmt.Errorf("%s.buckets has %q: want bucket names", key, s.Buckets[i])
	}
	return nil
}

func notABucket(name string) bool { return name == "" || strings.ContainsAny(name, "/ ") }

func (c *Config) oci(b *ociBody) error {
	if b == nil {
		return nil
	}
	c.OCI = OCI{or(b.AuthFile, ""), b.Plain, b.Namespaces}
	switch at := c.OCI.AuthFile; {
	case at != "" && !filepath.IsAbs(at):
		return fmt.Errorf("oci.auth_file is %q: want an absolute path", at)
	case at != "" && len(b.Namespaces) == 0:
		return errors.New(
			"oci.namespaces is missing: name the Nomad namespaces whose tasks may use the logins of auth_file, " +
				"or [\"*\"] for all")
	case at == "" && len(b.Namespaces) > 0:
		return errors.New("oci.namespaces has no effect without oci.auth_file: set both or neither")
	}
	for _, host := range b.Plain {
		if host == "" || strings.ContainsAny(host, "/ ") {
			return fmt.Errorf("oci.plain_http has %q: want a registry's host or host:port", host)
		}
	}
	return c.OCI.Namespaces.check("oci.namespaces")
}

func (f S3API) check() error {
	switch {
	case f.KeysFile != "" && !filepath.IsAbs(f.KeysFile):
		return fmt.Errorf("s3_keys_file is %q: want an absolute path", f.KeysFile)
	case f.Domain == "" || strings.ContainsAny(f.Domain, ":/ ") || net.ParseIP(f.Domain) != nil:
		return fmt.Errorf("s3_domain is %q: want a host name such as localhost", f.Domain)
	}
	return nil
}
