package gateways

import (
	"testing"

	consul "github.com/hashicorp/consul/api"
)

// Gateways that trust each other by the certificates of Consul's mesh find each other, share
// their slots, and go on when the mesh gets a new root: the streams that are open stay, and
// new ones follow the new root.
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

// root is the ID of the root that Consul signs with.
func root(t *testing.T, f *Fleet) string {
	t.Helper()
	roots, _, err := f.Consul.Client.Connect().CARoots((*consul.QueryOptions)(nil))
	if err != nil {
		t.Fatal(err)
	}
	return roots.ActiveRootID
}
