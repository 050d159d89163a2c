package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// clusterLabel is the label of a cluster's images, and through them of its containers.
const clusterLabel = "aliquot.cluster"

func label(dir string) string { return clusterLabel + "=" + filepath.Base(dir) }

// docker runs the docker command and returns its output.
func docker(ctx context.Context, input io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdin = input
	var errors bytes.Buffer
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("docker %s: %w: %s", args[0], err, strings.TrimSpace(errors.String()))
	}
	return strings.TrimSpace(string(out)), nil
}

// DockerMissing returns in one line why Docker cannot be used, or "".
func DockerMissing(ctx context.Context) string {
	if _, err := docker(ctx, nil, "version", "--format", "{{.Server.Version}}"); err != nil {
		return fmt.Sprintf("the docker engine cannot be used (%v): run `make setup`", err)
	}
	return ""
}

// importImage creates an image that holds one program. changes are Dockerfile instructions.
func importImage(ctx context.Context, dir, program, image string, changes ...string) error {
	var archive bytes.Buffer
	if err := pack(&archive, program); err != nil {
		return err
	}
	args := []string{"import", "--change", "LABEL " + label(dir), "--change", fmt.Sprintf(`ENTRYPOINT ["/%s"]`,
		filepath.Base(program))}
	for _, change := range changes {
		args = append(args, "--change", change)
	}
	_, err := docker(ctx, &archive, append(args, "-", image)...)
	return err
}

// aliases are the names by which the job files for vLLM, Triton and image pulls call the program of
// their image.
var aliases = []string{"usr/bin/vllm", "usr/bin/tritonserver", "bin/true", "bin/sleep"}

// pack writes a root file system that holds one program, also under its aliases, and /tmp.
func pack(w io.Writer, program string) error {
	body, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(w)
	headers := []*tar.Header{
		{Name: "tmp/", Mode: 0o1777, Typeflag: tar.TypeDir},
		{Name: filepath.Base(program), Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(body))},
	}
	for _, header := range headers {
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
	}
	if _, err := archive.Write(body); err != nil {
		return err
	}
	for _, name := range aliases {
		link := &tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: "/" + filepath.Base(program)}
		if err := archive.WriteHeader(link); err != nil {
			return err
		}
	}
	return archive.Close()
}

// ImportArchive creates an image from a root file system in a tar archive and returns the image's
// name. The image is removed with the cluster.
func (c *Cluster) ImportArchive(ctx context.Context, archive io.Reader, name, entrypoint string) (string, error) {
	image := filepath.Base(c.Dir) + "/" + name + ":local"
	_, err := docker(ctx, archive, "import", "--change", "LABEL "+label(c.Dir),
		"--change", fmt.Sprintf(`ENTRYPOINT [%q]`, entrypoint), "-", image)
	return image, err
}

// removeContainers removes the containers and images that carry a label.
func removeContainers(label string) error {
	ctx := context.Background()
	if DockerMissing(ctx) != "" {
		return nil // no docker engine, no containers
	}
	remove := func(list, remove []string) error {
		ids, err := docker(ctx, nil, list...)
		if err != nil || ids == "" {
			return err
		}
		unique := slices.Compact(slices.Sorted(slices.Values(strings.Fields(ids))))
		_, err = docker(ctx, nil, append(remove, unique...)...)
		return err
	}
	return errors.Join(
		remove([]string{"ps", "-aq", "--filter", "label=" + label}, []string{"rm", "-f"}),
		remove([]string{"images", "-q", "--filter", "label=" + label}, []string{"rmi", "-f"}),
	)
}
