package blob

import "strings"

// Registry returns one name for each registry, as names of images begin with it: docker.io for
// all names of Docker Hub, lower case, without the port of HTTPS. It takes a host with or
// without a port, or an address as docker login does, such as https://index.docker.io/v1/.
func Registry(address string) string {
	if scheme, rest, ok := strings.Cut(address, "://"); ok && !strings.Contains(scheme, "/") {
		address = rest
	}
	host, _, _ := strings.Cut(address, "/")
	host = strings.TrimSuffix(strings.ToLower(host), ":443")
	switch host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return "docker.io"
	}
	return host
}
