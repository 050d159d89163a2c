package rack_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"aliquot.example/e2e/rack/cuda"
)

// clientMark makes the test binary a CUDA client that obeys lines on its
// standard input: "alloc 100", "free 100", "load 40", "fault"; it prints the
// CUDA error code of each.
const clientMark = "RACK_CLIENT"

func runClient(in io.Reader, out io.Writer) int {
	print := func(v any) { _ = json.NewEncoder(out).Encode(v) }
	c, err := cuda.Open(cuda.Options{Root: os.Getenv("RACK_ROOT")})
	print(opened{Context: c, Code: cuda.Code(err), Error: fmt.Sprint(err)})
	if err != nil {
		return 0
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		var verb string
		var n int
		_, _ = fmt.Sscan(lines.Text(), &verb, &n)
		switch verb {
		case "alloc":
			err = c.Alloc(0, n)
		case "free":
			err = c.Free(0, n)
		case "load":
			err = c.Load(0, n, n/2)
		case "fault":
			err = c.Fault()
		}
		print(cuda.Code(err))
	}
	_ = c.Close()
	return 0
}

type opened struct {
	Context *cuda.Context
	Code    int
	Error   string
}

// client is a CUDA client in a process of its own.
type client struct {
	opened
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// launch starts a client; its answer to cuInit is read with await.
func launch(t *testing.T, m *machine, uid uint32, env ...string) *client {
	t.Helper()
	c := &client{t: t, cmd: exec.Command(m.binary(uid))}
	c.cmd.Env = append(m.env(), append(env, clientMark+"=1", "RACK_ROOT="+m.root)...)
	if uid != 0 {
		c.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	c.out = json.NewDecoder(out)
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.exit)
	return c
}

func (c *client) await() *client {
	c.t.Helper()
	if err := c.out.Decode(&c.opened); err != nil {
		c.t.Fatalf("client ended without a word: %v", err)
	}
	return c
}

func attach(t *testing.T, m *machine, env ...string) *client {
	t.Helper()
	return launch(t, m, 0, env...).await()
}

func (c *client) pid() int { return c.cmd.Process.Pid }

// do sends one line and returns the CUDA error code.
func (c *client) do(line string) int {
	c.t.Helper()
	code := -1
	if _, err := fmt.Fprintln(c.in, line); err != nil {
		c.t.Fatal(err)
	}
	if err := c.out.Decode(&code); err != nil {
		c.t.Fatal(err)
	}
	return code
}

func (c *client) exit() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}
