package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"aliquot.example/e2e/rack/wire"
)

var errQuitting = errors.New("the MPS control daemon is shutting down")

// server is the daemon's handle to an nvidia-cuda-mps-server process. Orders go over a packet
// socket, one at a time.
type server struct {
	pid  int
	uid  uint32
	mu   sync.Mutex
	fd   int
	dead chan struct{}
}

// order is one packet from daemon to server.
type order struct {
	Op         string // setup, client, list, status, percentage, limit, terminate, idle
	Setup      *setup
	Client     *wire.Client
	PID        int
	Percentage float64
	Device     string
	Limit      string
}

// setup is the configuration of a server.
type setup struct {
	Rack, Logs string
	Visible    *string
	Percentage float64
	Limits     map[string]string
}

// answer is the server's reply to one order.
type answer struct {
	OK         bool
	State      string
	Percentage float64
	Limits     map[string]string
	Clients    []clientInfo
}

type clientInfo struct {
	PID       int
	ID        int
	Command   string
	Namespace uint64
	Devices   []string
}

// start starts a server for a user. The caller must hold d.mu.
func (d *daemon) start(uid uint32) (*server, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	cmd, err := spawn(filepath.Join(filepath.Dir(exe), "nvidia-cuda-mps-server"), uid, theirs)
	if err != nil {
		syscall.Close(pair[0])
		return nil, err
	}
	s := &server{pid: cmd.Process.Pid, uid: uid, fd: pair[0], dead: make(chan struct{})}
	d.log.Printf("Starting new server %d for user %d", s.pid, uid)
	go func() {
		_ = cmd.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		s.mu.Lock()
		syscall.Close(s.fd)
		s.fd = -1
		s.mu.Unlock()
		d.log.Printf("Server %d exited with status %d", s.pid, cmd.ProcessState.ExitCode())
		if d.server == s {
			d.server = nil
		}
		close(s.dead)
		d.changed.Broadcast()
	}()
	_, err = s.order(order{Op: "setup", Setup: &setup{Rack: d.rack, Logs: d.logs, Visible: visible(),
		Percentage: d.percentage, Limits: d.limits}}, nil)
	if err != nil {
		return nil, fmt.Errorf("server %d did not start: %w", s.pid, err)
	}
	d.log.Printf("NEW SERVER %d: Ready", s.pid)
	d.server = s
	d.changed.Broadcast()
	return s, nil
}

// spawn runs the server program as the user, or as the daemon's own user if the user cannot execute
// the program.
func spawn(path string, uid uint32, control *os.File) (*exec.Cmd, error) {
	server := func(as *syscall.Credential) (*exec.Cmd, error) {
		cmd := &exec.Cmd{Path: path, Args: []string{"nvidia-cuda-mps-server"}, Env: os.Environ(),
			ExtraFiles: []*os.File{control}, Dir: "/",
			SysProcAttr: &syscall.SysProcAttr{Credential: as}}
		return cmd, cmd.Start()
	}
	if os.Getuid() == 0 && uid != 0 {
		if cmd, err := server(&syscall.Credential{Uid: uid, Gid: uid}); !errors.Is(err, os.ErrPermission) {
			return cmd, err
		}
	}
	return server(nil)
}

// gone waits until the process has ended.
func (s *server) gone() { <-s.dead }

func (s *server) order(o order, pass *net.UnixConn) (answer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var a answer
	if s.fd < 0 {
		return a, errors.New("the server is gone")
	}
	packet, err := json.Marshal(o)
	if err != nil {
		return a, err
	}
	var rights []byte
	if pass != nil {
		f, err := pass.File()
		if err != nil {
			return a, err
		}
		defer f.Close()
		rights = syscall.UnixRights(int(f.Fd()))
	}
	if err := syscall.Sendmsg(s.fd, packet, rights, nil, syscall.MSG_NOSIGNAL); err != nil {
		return a, err
	}
	buf := make([]byte, 1<<16)
	n, err := syscall.Read(s.fd, buf)
	if err != nil {
		return a, err
	}
	if n == 0 {
		return a, errors.New("the server ended")
	}
	return a, json.Unmarshal(buf[:n], &a)
}

// forward passes a client's connection to the server.
func (s *server) forward(conn *net.UnixConn, peer *syscall.Ucred, client wire.Client) error {
	_, err := s.order(order{Op: "client", Client: &client, PID: int(peer.Pid)}, conn)
	return err
}

// leaveWhenIdle tells the server to exit after its last client.
func (s *server) leaveWhenIdle() { _, _ = s.order(order{Op: "idle"}, nil) }

func (s *server) list() []clientInfo {
	a, err := s.order(order{Op: "list"}, nil)
	if err != nil {
		return nil
	}
	return a.Clients
}

func (c clientInfo) short() string {
	if len(c.Devices) == 0 {
		return "-"
	}
	// The real program prints the first half of the UUID.
	parts := strings.Split(c.Devices[0], "-")
	return strings.Join(parts[:min(4, len(parts))], "-")
}
