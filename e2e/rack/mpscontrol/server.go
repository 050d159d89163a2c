package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"aliquot.example/e2e/rack"
	"aliquot.example/e2e/rack/wire"
)

// serverMemory is the memory that the server's own context takes on each GPU, in MiB, as nvidia-smi
// shows for a real server.
const serverMemory = 30

// gpuServer is the state of the nvidia-cuda-mps-server process.
type gpuServer struct {
	rack string
	file *rack.File
	log  *log.Logger

	mu         sync.Mutex
	devices    []wire.Device
	percentage float64
	limits     map[string]string
	clients    map[int]*client // by ID
	pending    int             // clients that wait until the server is ready
	nextID     int
	shm, text  string // a file in /dev/shm and its content
	held       *os.File
	fault      map[string]bool // UUIDs of the devices in FAULT
	idleExit   bool
	ready      chan struct{} // closed when the server is ACTIVE
}

// client is one connected CUDA process.
type client struct {
	id, pid   int
	info      wire.Client
	devices   []wire.Device
	held      []wire.Holder // per device
	conn      *net.UnixConn
	condemned int // the CUDA error of all further calls
}

// serve runs the server on the packet socket that the daemon passed as descriptor 3. If the daemon
// dies, the server keeps serving its clients and exits after the last one.
func serve() int {
	const control = 3
	syscall.CloseOnExec(control)
	s := &gpuServer{clients: map[int]*client{}, percentage: 100, limits: map[string]string{}, fault: map[string]bool{},
		ready: make(chan struct{})}
	faults := make(chan os.Signal, 1)
	signal.Notify(faults, syscall.SIGUSR1)
	go func() {
		for range faults {
			s.fail(nil)
		}
	}()
	for {
		o, conn, err := receive(control)
		if err != nil {
			s.leave()
			select {} // until exitWhenIdle ends the process
		}
		a, err := s.obey(o, conn)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		packet, _ := json.Marshal(a)
		_ = syscall.Sendmsg(control, packet, nil, nil, syscall.MSG_NOSIGNAL)
		s.exitWhenIdle()
	}
}

// receive reads one order and the connection that came with it.
func receive(fd int) (o order, conn *net.UnixConn, err error) {
	buf, rights := make([]byte, 1<<16), make([]byte, syscall.CmsgSpace(4))
	var n, nr int
	for {
		n, nr, _, _, err = syscall.Recvmsg(fd, buf, rights, syscall.MSG_CMSG_CLOEXEC)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil || n == 0 {
		return o, nil, fmt.Errorf("the control daemon is gone: %w", os.ErrClosed)
	}
	if err := json.Unmarshal(buf[:n], &o); err != nil {
		return o, nil, err
	}
	messages, _ := syscall.ParseSocketControlMessage(rights[:nr])
	for _, m := range messages {
		fds, _ := syscall.ParseUnixRights(&m)
		for _, passed := range fds {
			f := os.NewFile(uintptr(passed), "client")
			c, err := net.FileConn(f)
			f.Close()
			if err != nil {
				return o, nil, err
			}
			conn = c.(*net.UnixConn)
		}
	}
	return o, conn, nil
}

func (s *gpuServer) obey(o order, conn *net.UnixConn) (answer, error) {
	if o.Op == "setup" {
		return answer{OK: true}, s.setup(*o.Setup)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := answer{OK: true, State: s.state(), Percentage: s.percentage, Limits: s.limits}
	switch o.Op {
	case "client":
		s.pending++
		go s.admit(conn, o.PID, *o.Client)
	case "percentage":
		s.percentage = o.Percentage
	case "limit":
		s.limits[o.Device] = o.Limit
	case "idle":
		s.idleExit = true
	case "list":
		a.Clients = s.list()
	case "terminate":
		a.OK = s.terminate(o.PID)
	}
	return a, nil
}

func (s *gpuServer) state() string {
	select {
	case <-s.ready:
	default:
		return "INITIALIZING"
	}
	if len(s.fault) > 0 {
		return "FAULT"
	}
	return "ACTIVE"
}

func (s *gpuServer) setup(with setup) error {
	out, err := openLog(filepath.Join(with.Logs, "server.log"))
	if err != nil {
		out = os.Stderr // the log belongs to another user
	}
	s.log = logger(out, "Other")
	s.log.Print("Startup")
	s.rack = with.Rack
	if s.file, err = rack.Load(with.Rack); err != nil {
		return err
	}
	s.devices = s.file.Select(s.file.Devices(nil), with.Visible)
	if len(s.devices) == 0 {
		return fmt.Errorf("no CUDA-capable device is detected")
	}
	for _, d := range s.devices {
		if wire.Refuses(s.rack, physical(d)) {
			return fmt.Errorf("CUDA-capable device(s) is/are busy or unavailable")
		}
	}
	s.percentage = with.Percentage
	for k, v := range with.Limits {
		s.limits[k] = v
	}
	for _, d := range s.devices {
		h := wire.Holder{MiB: serverMemory, Server: true, GI: d.GI, CI: d.CI}
		if err := h.Declare(s.rack, physical(d), os.Getpid()); err != nil {
			return err
		}
	}
	for i := range s.devices {
		s.log.Printf("Volta MPS: Creating server context on device %d", i)
	}
	s.log.Printf("Active Threads Percentage set to %.1f", s.percentage)
	if err := s.share(); err != nil {
		return err
	}
	go s.initialize()
	return nil
}

// share creates the file by which a client can check that it has the same /dev/shm.
func (s *gpuServer) share() error {
	f, err := os.CreateTemp("/dev/shm", "cuda-mps-*")
	if err != nil {
		return err
	}
	s.held = f // kept open, as a real server keeps its segments mapped
	s.shm, s.text = f.Name(), fmt.Sprintf("%s of server %d", filepath.Base(f.Name()), os.Getpid())
	if _, err := f.WriteString(s.text); err != nil {
		return err
	}
	return f.Chmod(0o666)
}

// initialize makes the server ACTIVE once the rack no longer delays the start of servers.
func (s *gpuServer) initialize() {
	for file := s.file; file.Driver.Get("mps_starting") == "yes"; {
		time.Sleep(20 * time.Millisecond)
		if again, err := rack.Load(s.rack); err == nil {
			file = again
		}
	}
	close(s.ready)
}

func physical(d wire.Device) string {
	if d.Parent != "" {
		return d.Parent
	}
	return d.UUID
}

func (s *gpuServer) list() []clientInfo {
	var out []clientInfo
	for id := 0; id < s.nextID; id++ {
		c, ok := s.clients[id]
		if !ok {
			continue
		}
		info := clientInfo{PID: c.pid, ID: c.id, Command: c.info.Command, Namespace: c.info.Namespace}
		for _, d := range c.devices {
			info.Devices = append(info.Devices, d.UUID)
		}
		out = append(out, info)
	}
	return out
}

func (s *gpuServer) leave() {
	s.mu.Lock()
	s.idleExit = true
	s.mu.Unlock()
	s.exitWhenIdle()
}

// exitWhenIdle ends the process if it was told to exit and has no more clients.
func (s *gpuServer) exitWhenIdle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.idleExit || len(s.clients)+s.pending > 0 {
		return
	}
	for _, d := range s.devices {
		wire.Withdraw(s.rack, physical(d), os.Getpid())
	}
	if s.log != nil {
		s.log.Print("Exit")
	}
	_ = os.Remove(s.shm)
	os.Exit(0)
}
