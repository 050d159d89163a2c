package main

import (
	"encoding/json"
	"log"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"aliquot.example/e2e/rack"
	"aliquot.example/e2e/rack/wire"
)

// daemon is the control daemon: its settings, and one server at a time.
type daemon struct {
	pipe, logs, rack string
	log              *log.Logger
	devices          []wire.Device
	multiuser        bool
	stop             func()

	mu         sync.Mutex
	changed    sync.Cond // a server started, ended or lost its last client
	percentage float64
	limits     map[string]string // ordinal -> pinned memory limit
	server     *server           // nil when none runs
	quitting   bool
	done       bool
}

func (d *daemon) accept(l *net.UnixListener) {
	for {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		d.log.Print("Accepting connection...")
		go d.greet(conn)
	}
}

func (d *daemon) greet(conn *net.UnixConn) {
	defer conn.Close()
	peer, err := credentials(conn)
	if err != nil {
		return
	}
	var hello wire.Hello
	// The client sends one value on a line and nothing more until the answer, so the decoder cannot
	// consume what belongs to the server.
	if err := json.NewDecoder(conn).Decode(&hello); err != nil {
		return
	}
	switch {
	case hello.Command != nil:
		d.holdBack()
		reply := d.command(*hello.Command, peer)
		_ = json.NewEncoder(conn).Encode(reply)
		if d.stopped() {
			d.stop()
		}
	case hello.Client != nil:
		d.attach(conn, peer, *hello.Client)
	}
}

func credentials(conn *net.UnixConn) (*syscall.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *syscall.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); e != nil {
		return nil, e
	}
	return cred, err
}

// attach passes a client to the server of its user and starts the server if necessary. It waits
// while the server of another user still has clients.
func (d *daemon) attach(conn *net.UnixConn, peer *syscall.Ucred, client wire.Client) {
	for {
		s, err := d.serverFor(peer)
		if err != nil {
			d.log.Print(err)
			_ = json.NewEncoder(conn).Encode(wire.Welcome{Error: wire.MPSRPCFailure, Message: err.Error()})
			return
		}
		if s.forward(conn, peer, client) == nil {
			d.log.Printf("NEW CLIENT %d from user %d: Server already exists", peer.Pid, peer.Uid)
			return
		}
		s.gone() // it ended in between; retry with the next one
	}
}

// serverFor returns the running server of the peer's user.
func (d *daemon) serverFor(peer *syscall.Ucred) (*server, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	uid, reported := peer.Uid, false
	if d.multiuser {
		uid = 0
	}
	for {
		if d.quitting {
			return nil, errQuitting
		}
		if d.server == nil {
			d.log.Printf("NEW CLIENT %d from user %d: Server is not ready, push client to pending list",
				peer.Pid, peer.Uid)
			return d.start(uid)
		}
		if d.server.uid == uid {
			return d.server, nil
		}
		if !reported {
			d.log.Printf("User %d waits: server %d of user %d is in use", peer.Uid, d.server.pid, d.server.uid)
			reported = true
		}
		d.server.leaveWhenIdle()
		d.changed.Wait()
	}
}

// holdBack delays answers while the daemon waits in quit, if the rack says that the daemon does not
// answer then. NVIDIA documents neither behavior.
func (d *daemon) holdBack() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f, err := rack.Load(d.rack); err != nil || f.Driver.Get("mps_quit_answers") != "no" {
		return
	}
	for d.quitting && !d.done {
		d.changed.Wait()
	}
}

func (d *daemon) stopped() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

// quit stops the servers and then the daemon. It waits for clients to exit, at most for timeout if
// one is given.
func (d *daemon) quit(timeout time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.quitting = true
	if timeout > 0 {
		stop := time.AfterFunc(timeout, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.server != nil {
				_ = syscall.Kill(d.server.pid, syscall.SIGKILL)
			}
		})
		defer stop.Stop()
	}
	for d.server != nil {
		d.server.leaveWhenIdle()
		d.changed.Wait()
	}
	d.done = true
	d.changed.Broadcast()
	_ = os.Remove(filepath.Join(d.pipe, "control"))
	d.log.Print("Exit")
}
