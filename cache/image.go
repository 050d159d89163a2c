package cache

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/distribution/reference"

	"aliquot.example/cache/oci"
	"aliquot.example/internal/cacheapi"
)

// maxNameLength bounds a request about an image, in bytes.
const maxNameLength = 64 << 10

// image responds with the name by which an image is pulled through the cache, and with a ticket
// that grants the rights of the job's namespace.
func (d *Daemon) image(w http.ResponseWriter, r *http.Request) {
	var ask cacheapi.Image
	if err := json.NewDecoder(io.LimitReader(r.Body, maxNameLength)).Decode(&ask); err != nil {
		http.Error(w, "cannot read the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	if d.ociURL == "" {
		http.Error(w, "the cache's oci_listen is off", http.StatusNotFound)
		return
	}
	name, repository, err := pulled(strings.TrimPrefix(d.ociURL, "http://"), ask.Image)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	ticket := d.tickets.Issue(ask.Namespace, repository)
	_ = json.NewEncoder(w).Encode(cacheapi.Pull{Name: name, Username: oci.User, Password: ticket})
}

// pulled is the name by which an image is pulled through an endpoint, and its repository.
func pulled(registry, image string) (name, repository string, err error) {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", "", fmt.Errorf("image %.200q: %w", image, err)
	}
	ref = reference.TagNameOnly(ref)
	repository = ref.Name()
	if strings.HasPrefix(repository, registry+"/") {
		return "", "", fmt.Errorf("image %s already names this cache", image)
	}
	rest := strings.TrimPrefix(ref.String(), repository) // tag and digest
	return registry + "/" + oci.Path(repository) + rest, repository, nil
}
