package router_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"aliquot.example/internal/learned"
	"aliquot.example/internal/profilekv"
	"aliquot.example/router/config"
	"aliquot.example/router/control"
)

const management = "5c1f3b0e-6d0a-4a52-9d83-2f1a0f5f6f11"

// token makes a token with the policy in rules and returns the file that holds it.
func (f *fixture) token(rules string) string {
	f.t.Helper()
	name := "p" + strings.NewReplacer("/", "-").Replace(f.t.Name())
	policy, _, err := f.Client.ACL().PolicyCreate(&api.ACLPolicy{Name: name, Rules: rules}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	token, _, err := f.Client.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	path := filepath.Join(f.t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(token.SecretID+"\n"), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func startWithACL(t *testing.T) *fixture {
	return start(t, map[string]any{"token": management, "acl": map[string]any{
		"enabled": true, "default_policy": "deny", "tokens": map[string]any{"initial_management": management, "agent": management},
	}})
}

func shippedPolicy(t *testing.T) string {
	t.Helper()
	rules, err := os.ReadFile("../jobs/router-policy.hcl")
	if err != nil {
		t.Fatal(err)
	}
	return string(rules)
}

func TestTheShippedPolicySuffices(t *testing.T) {
	t.Parallel()
	f := startWithACL(t)
	f.register("chat", "h100", 1)
	f.register("chat", "l4", 1)
	c := f.conf(`
		class "l4" { weight = 0.25 }
		service "chat" {
			rule "long" {
				path_prefix = "/v1/long"
				classes     = ["h100", "b200"]
			}
		}`)
	c.Consul.TokenFile = f.token(shippedPolicy(t))
	_, stop := f.route(c)
	f.awaitChain("chat", map[string]int{"h100": 8000, "l4": 2000})
	await(t, func() string {
		return f.kinds("service-defaults", "service-resolver", "service-router", "service-splitter")
	})
	f.putRates("chat", "gw-1", time.Now(), map[string]float64{"h100": 30, "l4": 10})
	f.awaitChain("chat", map[string]int{"h100": 7500, "l4": 2500})
	f.deregister("chat", "l4", 0, 1)
	f.awaitChain("chat", map[string]int{"h100": 10000, "l4": 0})
	f.instance("chat", "chat-h100-0", api.HealthPassing, "gpu_class", "h100")
	await(t, func() string { return f.kinds() })
	stop()

	// It allows nothing beside.
	text, err := os.ReadFile(c.Consul.TokenFile)
	if err != nil {
		t.Fatal(err)
	}
	client, err := api.NewClient(&api.Config{Address: f.Address, Token: strings.TrimSpace(string(text))})
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"other keys": func() error { _, err := client.KV().Put(&api.KVPair{Key: "other"}, nil); return err }(),
		"rates":      func() error { _, err := client.KV().Put(&api.KVPair{Key: "aliquot/rates/chat/x"}, nil); return err }(),
		"tokens":     func() error { _, _, err := client.ACL().TokenList(nil); return err }(),
		"proxy config": func() error {
			_, _, err := client.ConfigEntries().Set(&api.ProxyConfigEntry{Kind: api.ProxyDefaults, Name: "global"}, nil)
			return err
		}(),
		"intentions": func() error {
			_, _, err := client.ConfigEntries().Set(&api.ServiceIntentionsConfigEntry{Kind: api.ServiceIntentions, Name: "chat", Sources: []*api.SourceIntention{{Name: "*", Action: api.IntentionActionAllow}}}, nil)
			return err
		}(),
	} {
		if err == nil || !strings.Contains(err.Error(), "Permission denied") {
			t.Errorf("%s: got %v, want a denial", what, err)
		}
	}
}

func TestEveryLineOfThePolicyIsNeeded(t *testing.T) {
	t.Parallel()
	rules := shippedPolicy(t)
	blocks := strings.Split(rules, "\n}\n")
	for i, block := range blocks[:len(blocks)-1] {
		head := block[strings.LastIndex(block, "\n\n")+1:]
		for _, line := range strings.Split(block, "\n") {
			if strings.HasSuffix(line, "{") && !strings.HasPrefix(line, "#") {
				head = line
			}
		}
		t.Run(strings.Fields(head)[0]+"-"+string(rune('a'+i)), func(t *testing.T) {
			t.Parallel()
			f := startWithACL(t)
			f.register("chat", "h100", 1)
			f.register("chat", "l4", 1)
			less := append([]string{}, blocks...)
			less = append(less[:i], less[i+1:]...)
			c := f.conf("")
			if strings.Contains(head, learned.ProfilesPrefix) { // which help where gateways have measured nothing
				putProfile(t, f, "h100", 30)
				putProfile(t, f, "l4", 10)
			} else {
				f.putRates("chat", "gw-1", time.Now(), map[string]float64{"h100": 30, "l4": 10})
			}
			c.Consul.TokenFile = f.token(strings.Join(less, "\n}\n"))
			f.route(c)
			timer := time.NewTimer(3 * time.Second)
			<-timer.C
			if got := f.Chain("chat"); got["h100"] == 7500 {
				t.Errorf("works as well without %s", head)
			}
		})
	}
}

// putProfile saves what a replica of a class was benchmarked at, in requests a second.
func putProfile(t *testing.T, f *fixture, class string, rate float64) {
	t.Helper()
	p := learned.Profile{Measured: time.Now(), Class: class, Slices: "1of1", Answers: 500, Within: []learned.Within{{Concurrency: 1, Rate: rate}}}
	if _, err := profilekv.Save(t.Context(), f.Client, "chat", p); err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca, caKey := certificate(t, dir, "ca", nil, nil)
	certificate(t, dir, "server", ca, caKey)
	certificate(t, dir, "client", ca, caKey)
	file := func(name string) string { return filepath.Join(dir, name) }
	f := start(t, map[string]any{"tls": map[string]any{"defaults": map[string]any{
		"ca_file": file("ca.pem"), "cert_file": file("server.pem"), "key_file": file("server.key"), "verify_incoming": true,
	}, "grpc": map[string]any{"verify_incoming": false}}})
	f.register("chat", "h100", 1)
	f.register("chat", "l4", 1)
	both := want(t, map[string]int{"h100": 1, "l4": 1})

	// By file.
	c := f.conf("")
	c.Consul = config.Consul{Address: "https://" + f.HTTPS, CAFile: file("ca.pem"), CertFile: file("client.pem"), KeyFile: file("client.key"), MaxConnections: 20}
	_, stop := f.route(c)
	f.awaitChain("chat", both)
	stop()

	// By environment.
	for k, v := range map[string]string{
		"CONSUL_HTTP_ADDR": f.HTTPS, "CONSUL_HTTP_SSL": "true", "CONSUL_CACERT": file("ca.pem"),
		"CONSUL_CLIENT_CERT": file("client.pem"), "CONSUL_CLIENT_KEY": file("client.key"),
	} {
		t.Setenv(k, v)
	}
	c.Consul = config.Consul{MaxConnections: 20}
	f.route(c)
	f.health("chat", "h100", api.HealthCritical, 0, 1)
	f.awaitChain("chat", want(t, map[string]int{"h100": 0, "l4": 1}))

	// Without a client certificate nothing is to be had.
	t.Setenv("CONSUL_CLIENT_CERT", "")
	t.Setenv("CONSUL_CLIENT_KEY", "")
	client, err := control.New(c.Consul, c.Owner, c.Rates)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := client.Services(t.Context(), 0, time.Second); err == nil {
		t.Error("a client without a certificate is served")
	}
}

// certificate writes name.pem and name.key, signed by parent or by itself.
func certificate(t *testing.T, dir, name string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost", "server.dc1.consul"},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        parent == nil, BasicConstraintsValid: true,
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, path), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}
