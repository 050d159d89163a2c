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

// clusterLabel marks images, and through them containers, of a cluster.
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

// DockerMissing says in one line why Docker cannot be used, "" when it can.
func DockerMissing(ctx context.Context) string {
	if _, err := docker(ctx, nil, "version", "--format", "{{.Server.Version}}"); err != nil {
		return fmt.Sprintf("the docker engine cannot be used (%v): run `make setup`", err)
	}
	return ""
}

// importImage makes an image that holds one program, under several tags.
// variable, when not empty, is set in each image with the tag as its value.
func importImage(ctx context.Context, dir, program, repository, variable string, tags ...string) error {
	var archive bytes.Buffer
	if err := pack(&archive, program); err != nil {
		return err
	}
	key, value, _ := strings.Cut(label(dir), "=")
	for _, tag := range tags {
		args := []string{"import",
			"--change", fmt.Sprintf("LABEL %s=%s", key, value),
			"--change", fmt.Sprintf(`ENTRYPOINT ["/%s"]`, filepath.Base(program)),
		}
		if variable != "" {
			args = append(args, "--change", fmt.Sprintf("ENV %s=%s", variable, tag))
		}
		if _, err := docker(ctx, bytes.NewReader(archive.Bytes()), append(args, "-", repository+":"+tag)...); err != nil {
			return err
		}
	}
	return nil
}

// pack writes a root file system that holds one program and a /tmp.
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
	return archive.Close()
}

// removeContainers removes the containers and images that carry a label.
func removeContainers(label string) error {
	ctx := context.Background()
	if DockerMissing(ctx) != "" {
		return nil // no engine, no containers
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
