package cache

import (
	"aliquot.example/cache/config"
	"aliquot.example/cache/origin"
)

// token is what the origin of a scheme is asked with for a task of a namespace of Nomad,
// "" for one that has none: the asker's own token, or the node's where the configuration
// lets the namespace use it. Keys of another server of S3 count as none.
func (d *Daemon) token(scheme, namespace, given string) string {
	if given != "" && (scheme != "s3" || d.s3 != nil && d.s3.For(given)) {
		return given
	}
	may := config.Namespaces{"*"}
	switch {
	case scheme == "hf":
		may = d.conf.Hub.Namespaces
	case scheme == "oci" && d.conf.OCI.AuthFile != "":
		may = d.conf.OCI.Namespaces
	case scheme == "s3" && d.conf.S3 != nil && !d.conf.S3.Anonymous:
		may = d.conf.S3.Namespaces
	}
	if may.Holds(namespace) {
		return ""
	}
	return origin.Nobody
}
