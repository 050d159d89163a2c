package main

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"aliquot.example/e2e/rack"
	"aliquot.example/internal/mps"
)

//go:embed client/client.c
var source []byte

// compile builds the CUDA client with the host's C compiler.
func compile(ctx context.Context, dir string) (string, error) {
	compiler, err := exec.LookPath("cc")
	if err != nil {
		if compiler, err = exec.LookPath("gcc"); err != nil {
			return "", fmt.Errorf("no C compiler (cc or gcc) is on PATH: install gcc to build the CUDA client")
		}
	}
	file, program := filepath.Join(dir, "client.c"), filepath.Join(dir, "client")
	if err := os.WriteFile(file, source, 0o644); err != nil {
		return "", err
	}
	// The client calls the driver's functions through pointers without prototypes, which C23 no
	// longer allows.
	if out, err := exec.CommandContext(ctx, compiler, "-std=gnu11", "-O1", "-o", program, file,
		"-ldl").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s cannot build the CUDA client: %w: %s", compiler, err, strings.TrimSpace(string(out)))
	}
	return program, nil
}

// client is a running CUDA client with an open context.
type client struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	Seen map[string]string
}

// launch starts a client with its own environment and waits until it has printed all that it sees.
// With stepMiB > 0 the client allocates as much as it can get; with stepMiB < 0 it keeps the GPU
// busy. A client of MPS has the daemon's /dev/shm, as in a container.
func launch(ctx context.Context, program string, env map[string]string, stepMiB int) (*client, error) {
	daemon := 0
	if pipe := env["CUDA_MPS_PIPE_DIRECTORY"]; pipe != "" {
		daemon = mps.Control{Program: mps.Program, Pipe: pipe}.Process()
	}
	return launchIn(ctx, program, env, stepMiB, daemon)
}

// launchIn is launch in the mount namespace of a process; 0 means this one.
func launchIn(ctx context.Context, program string, env map[string]string, stepMiB, beside int) (*client, error) {
	cmd := exec.CommandContext(ctx, program)
	if stepMiB != 0 {
		cmd.Args = append(cmd.Args, strconv.Itoa(stepMiB))
	}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "CUDA_") && !strings.HasPrefix(e, "NVIDIA_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	start := cmd.Start
	if beside != 0 {
		start = func() error { return rack.StartBeside(cmd, beside) }
	}
	if err := start(); err != nil {
		return nil, err
	}
	c := &client{cmd: cmd, in: in, Seen: map[string]string{}}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if lines.Text() == "ready" {
			return c, nil
		}
		key, value, _ := strings.Cut(lines.Text(), "=")
		c.Seen[key] = value
	}
	err = c.close()
	if why := c.Seen["error"]; why != "" {
		return nil, fmt.Errorf("the CUDA client: %s", why)
	}
	return nil, fmt.Errorf("the CUDA client ended early: %v", err)
}

func (c *client) number(key string) int {
	n, _ := strconv.Atoi(c.Seen[key])
	return n
}

func (c *client) close() error {
	c.in.Close()
	return c.cmd.Wait()
}
