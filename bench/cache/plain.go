package main

import (
	"bufio"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

// part is how many bytes the measurements of plain tools move.
const part = 24 << 20

// plain prints the CPU time of plain tools to move and check a gigabyte, as a lower bound for a
// cache.
func plain(ctx context.Context, l *lab) error {
	dir, err := os.MkdirTemp(l.s.dir, "plain-")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "part"), make([]byte, part), 0o644); err != nil {
		return err
	}
	_ = os.Chmod(dir, 0o755) // nginx leaves root
	network, err := l.between(ctx, dir)
	if err != nil {
		return err
	}
	line("plain: sent and received by net/http", fmt.Sprintf("%.2f s", network), "")
	if _, err := exec.LookPath("nginx"); err == nil {
		if network, err = l.nginx(ctx, dir); err != nil {
			return err
		}
		line("plain: sent by nginx, received by curl", fmt.Sprintf("%.2f s", network), "")
	}
	disk, err := written(dir)
	if err != nil {
		return err
	}
	line("plain: written, synced, read twice", fmt.Sprintf("%.2f s", disk), "")
	line("plain: SHA-256", fmt.Sprintf("%.2f s", perGB(func(p []byte) { sha256.Sum256(p) })), "")
	table := crc32.MakeTable(crc32.Castagnoli)
	line("plain: CRC-32C", fmt.Sprintf("%.2f s", perGB(func(p []byte) { crc32.Checksum(p, table) })), "")
	sealed, err := sealing()
	if err != nil {
		return err
	}
	line("plain: AES-128-GCM, sealed and opened", fmt.Sprintf("%.2f s", sealed), "")
	return nil
}

// between returns the CPU time per gigabyte that net/http sends from one node to all others at
// once, which discard it.
func (l *lab) between(ctx context.Context, dir string) (float64, error) {
	url, pid, stop, err := l.serve(ctx, dir, address(1))
	if err != nil {
		return 0, err
	}
	defer stop()
	return l.receive(ctx, pid, func(node int) *exec.Cmd { return l.in(ctx, node, l.s.self, "-get", url+"/part") })
}

// nginx returns the same for nginx as the sender and curl as the receiver.
func (l *lab) nginx(ctx context.Context, dir string) (float64, error) {
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`
daemon off;
master_process off;
pid %[1]s/pid;
error_log stderr error;
events {}
http {
  access_log off;
  sendfile on;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  uwsgi_temp_path %[1]s/uwsgi;
  scgi_temp_path %[1]s/scgi;
  server {
    listen %[2]s:8088;
    root %[1]s;
  }
}
`, dir, address(1))
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return 0, err
	}
	server := l.in(ctx, 1, "nginx", "-e", "stderr", "-p", dir, "-c", conf)
	if err := server.Start(); err != nil {
		return 0, err
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	url := "http://" + address(1) + ":8088/part"
	ready := l.in(ctx, 1, "curl", "-s", "-o", "/dev/null", "--retry", "20", "--retry-connrefused", "--retry-delay", "1",
		"-r", "0-0", url)
	if err := ready.Run(); err != nil {
		return 0, fmt.Errorf("nginx does not answer: %w", err)
	}
	return l.receive(ctx, server.Process.Pid, func(node int) *exec.Cmd {
		return l.in(ctx, node, "curl", "-s", "-f", "-o", "/dev/null", url)
	})
}

// receive runs a client on all nodes but the first, and returns the CPU time of server and clients
// per gigabyte received.
func (l *lab) receive(ctx context.Context, server int, client func(node int) *exec.Cmd) (float64, error) {
	user, system, err := cpuOf(server)
	if err != nil {
		return 0, err
	}
	var mu sync.Mutex
	var done sync.WaitGroup
	used := -user - system
	for node := 2; node <= l.s.nodes; node++ {
		done.Go(func() {
			get := client(node)
			failed := get.Run()
			mu.Lock()
			defer mu.Unlock()
			if failed != nil {
				err = failed
				return
			}
			used += (get.ProcessState.UserTime() + get.ProcessState.SystemTime()).Seconds()
		})
	}
	done.Wait()
	if err != nil {
		return 0, err
	}
	user, system, err = cpuOf(server)
	return (used + user + system) / (part * float64(l.s.nodes-1) / 1e9), err
}

// serve starts net/http's file server on the first node.
func (l *lab) serve(ctx context.Context, dir, host string) (url string, pid int, stop func(), err error) {
	server := l.in(ctx, 1, l.s.self, "-files", dir, "-host", host)
	out, err := server.StdoutPipe()
	if err != nil {
		return "", 0, nil, err
	}
	if err := server.Start(); err != nil {
		return "", 0, nil, err
	}
	stop = func() { _ = server.Process.Kill(); _ = server.Wait() }
	text, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		stop()
	}
	return strings.TrimSpace(text), server.Process.Pid, stop, err
}

// own returns the CPU time of this process so far, in seconds.
func own() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// perGB returns the CPU time per gigabyte that take needs for pieces of 1 MiB.
func perGB(take func(p []byte)) float64 {
	p := make([]byte, 1<<20)
	const pieces = 128
	before := own()
	for range pieces {
		take(p)
	}
	return (own() - before) / (float64(pieces*len(p)) / 1e9)
}

// sealing returns the CPU time per gigabyte to seal and open TLS records.
func sealing() (float64, error) {
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		return 0, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return 0, err
	}
	const record = 16 << 10
	nonce, sealed, opened := make([]byte, gcm.NonceSize()), make([]byte, 0, 2*record), make([]byte, 0, record)
	var failed error
	used := perGB(func(p []byte) {
		for ; len(p) > 0; p = p[record:] {
			sealed = gcm.Seal(sealed[:0], nonce, p[:record], nil)
			if _, err := gcm.Open(opened, nonce, sealed, nil); err != nil {
				failed = err
			}
		}
	})
	return used, failed
}

// written returns the CPU time per gigabyte that is written in chunks with a sync after each, and
// read twice: for the digest and for peers.
func written(dir string) (float64, error) {
	f, err := os.Create(filepath.Join(dir, "written"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	p := make([]byte, 128<<10)
	const chunk, chunks = 8 << 20, 16
	// Like the store. A file system without fallocate can still be written.
	_ = syscall.Fallocate(int(f.Fd()), 0, 0, chunk*chunks)
	before := own()
	for range chunks {
		for at := 0; at < chunk; at += len(p) {
			if _, err := f.Write(p); err != nil {
				return 0, err
			}
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
	}
	for range 2 {
		for at := 0; at < chunk*chunks; at += len(p) {
			if _, err := f.ReadAt(p, int64(at)); err != nil {
				return 0, err
			}
		}
	}
	return (own() - before) / (chunk * chunks / 1e9), nil
}
