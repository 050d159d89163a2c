package nvidia_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"aliquot.example/e2e/rack"
	"aliquot.example/e2e/rack/cuda"
)

// clientMark makes this test binary a CUDA program on the rack: a process of its
// own, as MPS knows its clients by process.
const clientMark = "ALIQUOT_TEST_CUDA_CLIENT"

// runClient opens CUDA, tells what it sees and obeys "alloc <MiB>", "load <SM>
// <memory>" and "fault" until its input ends.
func runClient() int {
	out := json.NewEncoder(os.Stdout)
	c, err := cuda.Open(cuda.Options{Root: os.Getenv("ALIQUOT_TEST_ROOT")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer c.Close()
	_ = out.Encode(c)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var a, b int
		answer := "ok"
		switch n, _ := fmt.Sscanf(in.Text(), "load %d %d", &a, &b); {
		case n == 2:
			err = c.Load(0, a, b)
		case in.Text() == "fault":
			err = c.Fault()
		default:
			_, _ = fmt.Sscanf(in.Text(), "alloc %d", &a)
			err = c.Alloc(0, a)
		}
		if err != nil {
			answer = err.Error()
		}
		_ = out.Encode(answer)
	}
	return 0
}

// client is a running CUDA program.
type client struct {
	cuda.Context
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// program starts a CUDA program with a reservation's environment.
func (b *bench) program(t *testing.T, envs map[string]string) *client {
	t.Helper()
	c, err := b.tryProgram(t, envs)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (b *bench) tryProgram(t *testing.T, envs map[string]string) (*client, error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(b.env(), clientMark+"=1", "ALIQUOT_TEST_ROOT="+b.root)
	for _, key := range slices.Sorted(maps.Keys(envs)) {
		cmd.Env = append(cmd.Env, key+"="+envs[key])
	}
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	start := cmd.Start
	if pipe := envs["CUDA_MPS_PIPE_DIRECTORY"]; pipe != "" {
		// With the shared memory that a container of this GPU is given.
		daemon := b.control(filepath.Base(filepath.Dir(pipe))).Process()
		start = func() error { return rack.StartBeside(cmd, daemon) }
	}
	if err := start(); err != nil {
		return nil, err
	}
	c := &client{cmd: cmd, in: in, out: json.NewDecoder(out)}
	t.Cleanup(c.end)
	if err := c.out.Decode(&c.Context); err != nil {
		return nil, fmt.Errorf("the program ended: %w", cmd.Wait())
	}
	return c, nil
}

func (c *client) do(t *testing.T, command string) string {
	t.Helper()
	fmt.Fprintln(c.in, command)
	var answer string
	if err := c.out.Decode(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func (c *client) end() {
	c.in.Close()
	_ = c.cmd.Wait()
}
