package cache

import (
	"slices"
	"strings"

	"aliquot.example/cache/config"
	"aliquot.example/cache/origin"
)

// token returns the token with which the cache asks the origin of a model, given by scheme and
// name, for a task of a Nomad namespace, "" for a client without one: the task's own token, or the
// node's if the configuration permits it for the namespace. Keys of another S3 server are not used.
func (d *Daemon) token(scheme, name, namespace, given string) string {
	if given != "" && (scheme != "s3" || d.keysAreFor(name, given)) {
		return given
	}
	may := config.Namespaces{"*"}
	switch {
	case scheme == "hf":
		may = d.conf.Hub.Namespaces
	case scheme == "oci" && d.conf.OCI.AuthFile != "":
		may = d.conf.OCI.Namespaces
	case scheme == "s3":
		if c := d.s3Conf(name); c != nil && !c.Anonymous {
			may = c.Namespaces
		}
	}
	if may.Holds(namespace) {
		return ""
	}
	return origin.Nobody
}

// keysAreFor reports whether a task's keys belong to the server of a bucket; name is the bucket or
// an object in it.
func (d *Daemon) keysAreFor(name, token string) bool {
	if d.s3 == nil {
		return false
	}
	server, err := d.s3.Server(name)
	return err == nil && server.For(token)
}

// s3Conf returns the configuration of the server of a bucket or object, nil if there is none.
func (d *Daemon) s3Conf(name string) (others *config.S3) {
	bucket, _, _ := strings.Cut(name, "/")
	for _, c := range d.conf.S3 {
		if slices.Contains(c.Buckets, bucket) {
			return c
		}
		if len(c.Buckets) == 0 {
			others = c
		}
	}
	return others
}
