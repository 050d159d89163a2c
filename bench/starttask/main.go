// Command starttask compares the time that StartTask takes in Nomad's docker driver and in this
// one, with the same engine and the same image. The drivers take turns, so that variations of the
// engine affect all alike. It prints a table and checks no targets.
//
// It needs root, a container engine and go. Both drivers run in this process. Nomad's gRPC call
// adds the same to both and is left out.
package main

import (
	"archive/tar"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
)

const imageRef = "aliquot-bench/idle:1"

func main() {
	rounds := flag.Int("rounds", 20, "starts per row")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "starttask:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds int) error {
	dir, err := os.MkdirTemp("", "aliquot-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer engine.Close()
	if err := idleImage(ctx, engine, dir); err != nil {
		return err
	}
	defer engine.ImageRemove(context.Background(), imageRef, image.RemoveOptions{Force: true})
	rows, err := candidates(ctx, dir)
	if err != nil {
		return err
	}
	for round := range rounds + 1 {
		for turn := range rows {
			// Rotate the order, because a start is slowed by the removal before it.
			i := (turn + round) % len(rows)
			took, err := rows[i].start(ctx, dir)
			if err != nil {
				return fmt.Errorf("%s: %w", rows[i].name, err)
			}
			if round > 0 { // the first start of each is a warm-up
				rows[i].took = append(rows[i].took, took)
			}
		}
	}
	return report(os.Stdout, rows)
}

// report prints the median, the 95th percentile, and the median difference to the docker driver's
// start in the same round.
func report(to io.Writer, rows []candidate) error {
	w := tabwriter.NewWriter(to, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "driver\tstarts\tmedian ms\tp95 ms\tover docker, median ms\t")
	for _, r := range rows {
		over := make([]time.Duration, len(r.took))
		for i := range r.took {
			over[i] = r.took[i] - rows[0].took[i]
		}
		fmt.Fprintf(w, "%s\t%d\t%.1f\t%.1f\t%+.1f\t\n", r.name, len(r.took), ms(quantile(r.took, 0.5)),
			ms(quantile(r.took, 0.95)), ms(quantile(over, 0.5)))
	}
	return w.Flush()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

// idleImage builds the idle program and imports it as an image.
func idleImage(ctx context.Context, engine *client.Client, dir string) error {
	path := filepath.Join(dir, "idle")
	build := exec.CommandContext(ctx, "go", "build", "-o", path, "aliquot.example/bench/starttask/idle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "idle", Mode: 0o755, Size: int64(len(program))}); err != nil {
		return err
	}
	if _, err := w.Write(program); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	out, err := engine.ImageImport(ctx, image.ImportSource{Source: &archive, SourceName: "-"}, imageRef,
		image.ImportOptions{Changes: []string{`ENTRYPOINT ["/idle"]`}})
	if err != nil {
		return fmt.Errorf("no image for the benchmark (is the container engine running?): %w", err)
	}
	defer out.Close()
	_, err = io.Copy(io.Discard, out)
	return err
}
