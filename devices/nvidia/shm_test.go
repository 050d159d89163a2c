package nvidia_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"aliquot.example/e2e/rack"
)

// TestSharedMemoryOfAGPU: daemon and tasks of a GPU have a file system of their own
// at /dev/shm. It is the condition for reaching the daemon, it outlives no task that
// used it, and it goes with the GPU's sharing.
func TestSharedMemoryOfAGPU(t *testing.T) {
	t.Parallel()
	b := newBench(t, "h100-t4")
	c := b.plugin(t, `mps_shm_size = "64m"`)
	g := named(until(t, c, "healthy", allWell), "t4-1")
	envs := reserve(t, c, g, 0, 4)
	shm, other := b.shm(b.uuids(t)[1]), b.shm(b.uuids(t)[0])
	if size := sizeOf(t, shm); size != 64<<20 {
		t.Errorf("the shared memory has %d bytes, want 64 MiB", size)
	}
	p := b.program(t, envs)
	if !p.MPS {
		t.Error("a program with the GPU's shared memory does not reach its daemon")
	}
	if out, err := b.beside(t, b.uuids(t)[1], "cat", plantLink(t, b.control(b.uuids(t)[1]).Pipe)); err == nil || !strings.Contains(out, "symbolic links") {
		t.Errorf("the daemon follows a link in its pipe directory: %q, %v", out, err)
	}
	of := server(t, shm)
	if of == server(t, other) {
		t.Error("two GPUs share their memory")
	}
	if _, err := os.Stat(filepath.Join("/dev/shm", filepath.Base(of))); err == nil {
		t.Error("the daemon's files are in the host's /dev/shm")
	}
	// A container that starts before the task that left a file has ended keeps it.
	left := filepath.Join(shm, "left-by-a-task")
	if err := os.WriteFile(left, []byte("segment"), 0o600); err != nil {
		t.Fatal(err)
	}
	container := contain(t, shm)
	fresh := filepath.Join(other, "left-by-a-task")
	if err := os.WriteFile(fresh, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	awaitWithin(t, 40*time.Second, "the end of a file that no container has", func() bool { return gone(fresh) })
	if gone(left) {
		t.Error("a file was removed under a container")
	}
	_ = container.Process.Kill()
	_ = container.Wait()
	awaitWithin(t, 40*time.Second, "the end of a file when the last task has ended", func() bool { return gone(left) })
	if server(t, shm) != of {
		t.Error("the server's own file was removed")
	}
	p.end()
	c.stop()
	next := b.plugin(t, `gpu "*" { mode = "whole" }`)
	until(t, next, "whole", allWell)
	for _, path := range []string{shm, other} {
		await(t, "the end of "+path, func() bool { return gone(path) })
	}
}

// plantLink makes what a container can make in the pipe directory.
func plantLink(t *testing.T, pipe string) string {
	t.Helper()
	link := filepath.Join(pipe, "link")
	if err := os.Symlink("/proc/version", link); err != nil {
		t.Fatal(err)
	}
	return link
}

// beside runs a command where the daemon of a GPU runs.
func (b *bench) beside(t *testing.T, uuid, name string, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := rack.StartBeside(cmd, b.control(uuid).Process()); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	return out.String(), err
}

func (b *bench) shm(uuid string) string { return filepath.Join(b.runDir, "mps", uuid, "shm") }

func gone(path string) bool {
	_, err := os.Stat(path)
	return os.IsNotExist(err)
}

// server is the file of the rack's MPS server in its shared memory.
func server(t *testing.T, shm string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(shm, "cuda-mps-*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s has the servers %v, %v", shm, files, err)
	}
	return files[0]
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks) * st.Bsize
}

// contain starts what has the shared memory at a place of its own, as a container.
func contain(t *testing.T, shm string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sh", "-c", `mount --bind "$0" "$1" && echo ready && exec sleep 300`, shm, t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd
}
