// Package cuda is a CUDA client that needs no GPU. Against the fakes of package rack, it finds
// devices, attaches to MPS and allocates memory as the CUDA driver library does. Programs in test
// images link it where real programs link libcuda.
package cuda

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"aliquot.example/e2e/rack"
	"aliquot.example/e2e/rack/wire"
)

// Error is a CUDA driver API error.
type Error struct {
	Code    int // as in cuda.h
	Message string
}

func (e *Error) Error() string { return fmt.Sprintf("CUDA error %d: %s", e.Code, e.Message) }

// Code returns the CUDA error code of err, or 0 if it has none.
func Code(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// Options say where the client looks. The zero value is for a process in its own container or on
// its own host.
type Options struct {
	Root string                          // the machine's root directory; "" means "/"
	Env  func(key string) (string, bool) // nil means os.LookupEnv
}

// Device is a GPU or MIG device as the process sees it.
type Device struct {
	UUID    string `json:"uuid"`
	Name    string `json:"name"`
	PCI     string `json:"pci"`
	Compute string `json:"compute"` // compute capability
	SMs     int    `json:"sms"`     // SMs that the process may use
	Total   int    `json:"total_sms"`
	Memory  int    `json:"memory_mib"` // of the device
	Limit   int    `json:"limit_mib"`  // of this process, 0 without one
}

// Context is an open CUDA context, with its devices and its MPS server if it has one.
type Context struct {
	Devices []Device `json:"devices"`
	// MPS reports whether the process runs over MPS. Server is that server's PID on the host.
	MPS    bool   `json:"mps"`
	Server int    `json:"server,omitempty"`
	Pipe   string `json:"pipe,omitempty"`

	link  link
	nodes []*os.File // open device nodes
}

// link performs the requests of the process on its devices.
type link interface {
	do(wire.Request) error
	close() error
}

// Open does what cuInit does and creates a context on every visible device. It attaches to MPS if a
// daemon answers in CUDA_MPS_PIPE_DIRECTORY (default /tmp/nvidia-mps), and silently runs without
// MPS otherwise. It fails with CUDA's error codes: 100 without a visible device, 807 while the
// server is in FAULT, 808 when the device has its maximum number of clients. It blocks while a
// server of another user is serving.
func Open(o Options) (*Context, error) {
	if o.Root == "" {
		o.Root = "/"
	}
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	pipe, ok := o.Env("CUDA_MPS_PIPE_DIRECTORY")
	if !ok || pipe == "" {
		pipe = "/tmp/nvidia-mps"
	}
	conn, err := net.Dial("unix", filepath.Join(pipe, "control"))
	if err != nil {
		return direct(o)
	}
	c, err := attach(o, conn, pipe)
	if err != nil {
		conn.Close()
	}
	if errors.Is(err, errApart) {
		return direct(o)
	}
	return c, err
}

// errApart means that the daemon and the client have different /dev/shm.
var errApart = errors.New("the MPS server's shared memory is not this process's")

func attach(o Options, conn net.Conn, pipe string) (*Context, error) {
	client := wire.Client{Command: strings.Join(os.Args, " "), Namespace: pidNamespace()}
	if v, ok := o.Env("CUDA_VISIBLE_DEVICES"); ok {
		client.Visible = &v
	}
	client.Percentage, _ = o.Env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE")
	client.MemoryLimit, _ = o.Env("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")
	l := &mpsLink{conn: conn, in: json.NewDecoder(conn), out: json.NewEncoder(conn)}
	var welcome wire.Welcome
	if err := l.out.Encode(wire.Hello{Client: &client}); err != nil {
		return nil, &Error{wire.MPSRPCFailure, err.Error()}
	}
	if err := l.in.Decode(&welcome); err != nil {
		return nil, &Error{wire.MPSRPCFailure, "the MPS server closed the connection"}
	}
	if welcome.Error != 0 {
		return nil, &Error{welcome.Error, welcome.Message}
	}
	if text, err := os.ReadFile(welcome.Shm); err != nil || string(text) != welcome.ShmText {
		return nil, errApart
	}
	c := &Context{MPS: true, Server: welcome.Server, Pipe: pipe, link: l}
	for _, d := range welcome.Devices {
		if err := c.open(o.Root, d); err != nil {
			return nil, err
		}
		c.Devices = append(c.Devices, seen(d))
	}
	return c, nil
}

func seen(d wire.Device) Device {
	return Device{UUID: d.UUID, Name: d.Name, PCI: d.PCI, Compute: d.Compute, SMs: d.Units, Total: d.SMs,
		Memory: d.Memory, Limit: d.Limit}
}

// pidNamespace returns the inode of the process's PID namespace, or 0 if it is unknown.
func pidNamespace() uint64 {
	st, err := os.Stat("/proc/self/ns/pid")
	if err != nil {
		return 0
	}
	return st.Sys().(*syscall.Stat_t).Ino
}

// open opens the device nodes that CUDA opens for one device, until Close. On error it leaves
// nothing open.
func (c *Context) open(root string, d wire.Device) error {
	nodes := map[string]int{"nvidiactl": os.O_RDWR, "nvidia-uvm": os.O_RDWR,
		fmt.Sprintf("nvidia%d", d.Minor): os.O_RDWR}
	if d.GI >= 0 {
		gi, ci := rack.CapMinors(d.Minor, d.GI, d.CI)
		nodes[fmt.Sprintf("nvidia-caps/nvidia-cap%d", gi)] = os.O_RDONLY
		nodes[fmt.Sprintf("nvidia-caps/nvidia-cap%d", ci)] = os.O_RDONLY
	}
	for node, how := range nodes {
		f, err := os.OpenFile(filepath.Join(root, "dev", node), how, 0)
		if err != nil {
			c.closeNodes()
			return &Error{wire.NoDevice, "no CUDA-capable device is detected: " + err.Error()}
		}
		c.nodes = append(c.nodes, f)
	}
	return nil
}

func (c *Context) closeNodes() {
	for _, f := range c.nodes {
		f.Close()
	}
	c.nodes = nil
}

// reachable reports whether the nodes of a device can be opened.
func reachable(root string, d wire.Device) bool {
	var trial Context
	defer trial.closeNodes()
	return trial.open(root, d) == nil
}

// Alloc allocates mib MiB of a device's memory. It fails with code 2 if that exceeds the process's
// limit or the device's memory.
func (c *Context) Alloc(device, mib int) error {
	return c.link.do(wire.Request{Op: "alloc", Device: device, MiB: mib})
}

// Free frees mib MiB.
func (c *Context) Free(device, mib int) error {
	return c.link.do(wire.Request{Op: "free", Device: device, MiB: mib})
}

// Load declares how busy the process keeps a device from now on, as percentages of its SMs and of
// its memory bandwidth. NVML reports these values.
func (c *Context) Load(device, sm, memory int) error {
	return c.link.do(wire.Request{Op: "load", Device: device, SM: sm, Memory: memory})
}

// Fault causes a fatal exception, such as an access outside any allocation: the context is lost,
// and over MPS the contexts of all clients.
func (c *Context) Fault() error { return c.link.do(wire.Request{Op: "fault"}) }

// Close releases everything.
func (c *Context) Close() error {
	c.closeNodes()
	return c.link.close()
}

// mpsLink is a link to the MPS server.
type mpsLink struct {
	mu   sync.Mutex
	conn net.Conn
	in   *json.Decoder
	out  *json.Encoder
}

func (l *mpsLink) do(r wire.Request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var reply wire.Reply
	if err := l.out.Encode(r); err != nil {
		return &Error{wire.MPSRPCFailure, "the MPS server is gone"}
	}
	if err := l.in.Decode(&reply); err != nil {
		return &Error{wire.MPSRPCFailure, "the MPS server is gone"}
	}
	if reply.Error != 0 {
		return &Error{reply.Error, reply.Message}
	}
	return nil
}

func (l *mpsLink) close() error { return l.conn.Close() }

func trimmed(env func(string) (string, bool), key string) *string {
	if v, ok := env(key); ok {
		v = strings.TrimSpace(v)
		return &v
	}
	return nil
}
