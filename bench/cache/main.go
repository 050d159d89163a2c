// Command cache measures caches that fetch one model at once from an origin. Each cache is a
// process in its own network namespace, eight by default. Every link, including the origin's, has
// the same bandwidth limit.
//
// It needs root, ip and tc. Its traffic stays in its own namespaces, which it removes at the end.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// settings are the parameters of a run.
type settings struct {
	nodes, mib, mbit int
	dir, program     string
	only             string // name of the run, "" for all
	insecure         bool   // peers without TLS
	kind             string // kind of the origin
	self             string // path of this program, to run it in a namespace
}

func (s settings) bytes() int64 { return int64(s.mib) << 20 }

// linkTime returns how long the model takes over one link.
func (s settings) linkTime() time.Duration {
	return time.Duration(float64(s.bytes()*8) / (float64(s.mbit) * 1e6) * float64(time.Second))
}

func main() {
	s := settings{}
	flag.IntVar(&s.nodes, "nodes", 8, "number of caches")
	flag.IntVar(&s.mib, "mib", 192, "size of the model, in MiB")
	flag.IntVar(&s.mbit, "mbit", 200, "speed of each link in each direction, in Mbit/s")
	flag.StringVar(&s.program, "aliquot", "", "path of the aliquot program; built if empty")
	flag.StringVar(&s.only, "only", "", "one of the runs: together, killed, alone, s3 or oci; all if empty")
	flag.BoolVar(&s.insecure, "insecure", false, "connect the caches without TLS")
	flag.StringVar(&s.kind, "kind", "hf", "internal: with -origin, the kind of origin")
	origin := flag.String("origin", "", "internal: serve as the origin at this host")
	get := flag.String("get", "", "internal: read a URL and print the time")
	files := flag.String("files", "", "internal: serve this directory's files")
	host := flag.String("host", "127.0.0.1", "internal: with -files, the host to listen on")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case *origin != "":
		err = beOrigin(ctx, s.kind, *origin, s.bytes())
	case *get != "":
		err = beClient(ctx, *get)
	case *files != "":
		err = beFiles(ctx, *files, *host)
	default:
		err = measure(ctx, s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-cache:", err)
		os.Exit(1)
	}
}

func measure(ctx context.Context, s settings) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("network namespaces need root")
	}
	if s.self, err = os.Executable(); err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "bench-cache-"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	if s.program == "" {
		s.program = filepath.Join(s.dir, "aliquot")
		build := exec.CommandContext(ctx, "go", "build", "-o", s.program, "./cmd/aliquot")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w: %s", err, out)
		}
	}
	secured := "TLS between them"
	if s.insecure {
		secured = "no TLS"
	}
	fmt.Printf("%d caches, %s, a model of %d MiB, links of %d Mbit/s: one link time is %.1f s\n%s\n\n",
		s.nodes, secured, s.mib, s.mbit, s.linkTime().Seconds(), load())
	ran := false
	for _, r := range []struct {
		name string
		run  func(context.Context, settings) error
	}{{"together", together}, {"killed", killed}, {"alone", alone}, {"s3", other("s3")}, {"oci", other("oci")}} {
		if s.only != "" && s.only != r.name {
			continue
		}
		ran = true
		if err := r.run(ctx, s); err != nil {
			return err
		}
	}
	if !ran {
		return fmt.Errorf("-only=%s: want together, killed, alone, s3 or oci", s.only)
	}
	return nil
}

// load describes how busy the machine is.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if words := strings.Fields(string(text)); err == nil && len(words) > 0 {
		return fmt.Sprintf("%d cores, load %s before the first run", runtime.NumCPU(), words[0])
	}
	return fmt.Sprintf("%d cores", runtime.NumCPU())
}

// line prints a result and its target.
func line(what, figure, target string) { fmt.Printf("%-44s %-26s %s\n", what, figure, target) }
