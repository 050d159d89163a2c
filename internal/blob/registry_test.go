package blob

import "testing"

func TestRegistry(t *testing.T) {
	for address, want := range map[string]string{
		"ghcr.io":                        "ghcr.io",
		"ghcr.io:443":                    "ghcr.io",
		"GHCR.io":                        "ghcr.io",
		"https://ghcr.io":                "ghcr.io",
		"https://ghcr.io:443/v2/":        "ghcr.io",
		"registry.internal:5000":         "registry.internal:5000",
		"registry.internal:4430":         "registry.internal:4430",
		"http://registry.internal:5000/": "registry.internal:5000",
		"docker.io":                      "docker.io",
		"index.docker.io":                "docker.io",
		"https://index.docker.io/v1/":    "docker.io",
		"registry-1.docker.io:443":       "docker.io",
		"registry.hub.docker.com":        "docker.io",
		"index.internal":                 "index.internal",
		"[::1]:443":                      "[::1]",
		"other.internal/a://ghcr.io":     "other.internal",
		"":                               "",
	} {
		if got := Registry(address); got != want {
			t.Errorf("Registry(%q) is %q, want %q", address, got, want)
		}
	}
}

// FuzzRegistry checks that a registry's name is its own: it stays as it is, and no path follows.
func FuzzRegistry(f *testing.F) {
	f.Add("https://index.docker.io/v1/")
	f.Fuzz(func(t *testing.T, address string) {
		name := Registry(address + ":443")
		if again := Registry(name + ":443"); again != name {
			t.Errorf("Registry of %q is %q, and of that %q", address, name, again)
		}
	})
}
