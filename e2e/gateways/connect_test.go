package gateways

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"

	"aliquot.example/gateway/peers/peertest"
)

// Gateways that authenticate with certificates of Consul's mesh find each other, share their slots,
// and continue when the mesh gets a new root: open streams stay, and new ones use the new root.
func TestConnectCertificates(t *testing.T) {
	ctx, f := fleet(t, Options{TLS: `tls = "connect"`}, 4, 2)
	l := f.Load(6, served)
	l.goOn(ctx, t, 10, f.Gateways)
	f.full(ctx, t)

	config, _, err := f.Consul.Client.Connect().CAGetConfig(nil)
	if err != nil {
		t.Fatal(err)
	}
	before := root(t, f)
	config.Config["PrivateKey"], config.Config["RootCert"] = "", ""
	config.Config["PrivateKeyType"], config.Config["PrivateKeyBits"] = "rsa", 2048
	if _, err := f.Consul.Client.Connect().CASetConfig(config, nil); err != nil {
		t.Fatal(err)
	}
	err = Await(ctx, "a new root", func() string {
		if root(t, f) == before {
			return "Consul still has the root " + before
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	l.goOn(ctx, t, 10, f.Gateways)
	owner := f.owner(ctx, t)
	f.killAndReplace(ctx, t, l, "the owner under a new root", []*Gateway{owner})
	f.verdict(t, l)
}

// root returns the ID of Consul's active root certificate.
func root(t *testing.T, f *Fleet) string {
	t.Helper()
	roots, _, err := f.Consul.Client.Connect().CARoots((*consul.QueryOptions)(nil))
	if err != nil {
		t.Fatal(err)
	}
	return roots.ActiveRootID
}

// Certificates in files expire while gateways use them, and are replaced. Open streams stay open, a
// gateway that starts uses the current files, and a gateway with an expired certificate is refused
// until the certificate is renewed. No request is lost.
func TestFileCertificates(t *testing.T) {
	authority, err := peertest.New()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(until time.Time, of ...int) {
		t.Helper()
		for _, i := range of {
			if _, err := authority.Write(dir, fmt.Sprint(i), until); err != nil {
				t.Fatal(err)
			}
		}
	}
	later := func() time.Time { return time.Now().Add(time.Hour) }
	write(later(), 0, 1, 2)
	at := filepath.Join(dir, "{index}")
	ctx, f := fleet(t, Options{TLS: fmt.Sprintf("cert_file = %q\nkey_file = %q\nca_file = %q", at+".pem", at+"-key.pem", at+"-ca.pem")}, 4, 2)
	l := f.Load(6, served)
	restart := func(g *Gateway) {
		t.Helper()
		g.Kill()
		if err := g.Start(ctx); err != nil {
			t.Fatal(err)
		}
	}

	expires := time.Now().Add(10 * time.Second)
	write(expires, 0, 1, 2)
	restart(f.Gateways[0])
	f.owner(ctx, t)
	err = Await(ctx, "the certificates expire", func() string {
		if time.Now().Before(expires) {
			return "not yet"
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	l.goOn(ctx, t, 20, f.Gateways)
	write(later(), 0, 1, 2)
	restart(f.Gateways[1])
	f.owner(ctx, t)
	l.goOn(ctx, t, 10, f.Gateways)

	write(time.Now().Add(-time.Minute), 2)
	expired, others := f.Gateways[2], f.Gateways[:2]
	restart(expired)
	f.apart(ctx, t, []*Gateway{expired})
	if _, err := f.settled(ctx, others); err != nil {
		t.Fatal(err)
	}
	l.goOn(ctx, t, 10, f.Gateways)
	for _, c := range []struct {
		at    *Gateway
		text  string
		lines int
	}{
		{expired, "the certificate of this gateway expired at ", len(others)},
		{others[0], "the certificate of the other gateway expired at ", 1},
	} {
		if n := strings.Count(c.at.Log(), c.text); n != c.lines {
			t.Errorf("gateway %d says %d times %q, want %d", c.at.Index, n, c.text, c.lines)
		}
	}
	write(later(), 2)
	f.owner(ctx, t)
	f.reset()
	f.full(ctx, t)
	f.verdict(t, l)
}
