// Command probe is the program of test images: it reports what its container has and, on request, opens
// the GPU.
package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"aliquot.example/e2e/rack/cuda"
)

// Report is what a container sees.
type Report struct {
	Args   []string
	Env    map[string]string
	Nodes  []string // character devices of GPUs
	Mounts []string
	Groups []int
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(3)
	}
}

func run(args []string) error {
	if err := json.NewEncoder(os.Stdout).Encode(report(args)); err != nil {
		return err
	}
	mode := ""
	if len(args) > 0 {
		mode = args[0]
	}
	switch mode {
	case "exit":
		return nil
	case "cuda":
		c, err := cuda.Open(cuda.Options{})
		if err != nil {
			return err
		}
		fmt.Printf("mps %v\n", c.MPS)
	case "compile":
		// As a compiler with a cache does: what is there is not made again.
		kernel := filepath.Join(os.Getenv("TRITON_CACHE_DIR"), "kernel.so")
		text, err := os.ReadFile(kernel)
		if err != nil {
			text = []byte("compiled by " + args[1])
			err = os.WriteFile(kernel, text, 0o755)
			_ = os.Symlink("/etc/passwd", kernel+".link")
		}
		fmt.Printf("kernel %q %v\n", text, err)
	case "read":
		text, err := os.ReadFile(args[1])
		fmt.Printf("read %q %v\n", text, err)
	case "link":
		err := os.Remove(args[1])
		if err == nil {
			err = os.Symlink("/etc/passwd", args[1])
		}
		fmt.Printf("linked %v\n", err)
	case "open":
		for _, path := range args[1:] {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			defer f.Close()
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	<-stop
	return nil
}

func report(args []string) Report {
	r := Report{Args: args, Env: map[string]string{}}
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		r.Env[k] = v
	}
	_ = filepath.WalkDir("/dev", func(path string, d fs.DirEntry, err error) error {
		for _, prefix := range []string{"/dev/nvidia", "/dev/dri/", "/dev/kfd"} {
			if err == nil && d.Type()&fs.ModeCharDevice != 0 && strings.HasPrefix(path, prefix) {
				r.Nodes = append(r.Nodes, path)
			}
		}
		return nil
	})
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 5 {
			r.Mounts = append(r.Mounts, f[4]+" "+strings.Split(f[5], ",")[0])
		}
	}
	r.Groups, _ = os.Getgroups()
	return r
}
