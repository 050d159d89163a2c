// Package wire is the protocol between the fake CUDA client, the fake MPS control daemon and its
// server. The real protocol is not public; this is the project's own: one JSON value per line over
// the socket <pipe directory>/control, and one JSON value per packet between daemon and server.
package wire

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// CUDA error codes of MPS, from cuda.h.
const (
	OutOfMemory       = 2   // CUDA_ERROR_OUT_OF_MEMORY
	DeviceUnavailable = 46  // CUDA_ERROR_DEVICE_UNAVAILABLE
	NoDevice          = 100 // CUDA_ERROR_NO_DEVICE
	InvalidDevice     = 101 // CUDA_ERROR_INVALID_DEVICE
	LaunchFailed      = 719 // CUDA_ERROR_LAUNCH_FAILED
	MPSRPCFailure     = 806 // CUDA_ERROR_MPS_RPC_FAILURE
	MPSNotReady       = 807 // CUDA_ERROR_MPS_SERVER_NOT_READY
	MPSMaxClients     = 808 // CUDA_ERROR_MPS_MAX_CLIENTS_REACHED
	MPSClientTerminal = 810 // CUDA_ERROR_MPS_CLIENT_TERMINATED
)

// Hello opens a connection to the daemon, from the control program with a command or from a CUDA
// client that needs a server.
type Hello struct {
	Command *string `json:",omitempty"`
	Client  *Client `json:",omitempty"`
}

// Client is the environment that the CUDA library of a client sends.
type Client struct {
	Visible     *string // CUDA_VISIBLE_DEVICES, nil when unset
	Percentage  string  // CUDA_MPS_ACTIVE_THREAD_PERCENTAGE
	MemoryLimit string  // CUDA_MPS_PINNED_DEVICE_MEM_LIMIT
	Command     string
	Namespace   uint64 // inode of the client's PID namespace
}

// Device is a GPU or MIG device as an MPS client sees it.
type Device struct {
	UUID, Name, PCI, Compute string
	Parent                   string // UUID of the physical GPU of a MIG device
	Minor, GI, CI            int    // GI and CI are -1 outside MIG
	SMs, Units               int    // of the device; that this client may use
	Step                     int    // granularity in which the hardware divides its SMs
	Memory, Limit            int    // MiB; of the device, and of this client's limit or 0
}

// Welcome answers a client. Error is a CUDA error code, or 0 for success.
type Welcome struct {
	Error   int    `json:",omitempty"`
	Message string `json:",omitempty"`
	Server  int
	// Shm is a file in the server's /dev/shm. A client that does not find it with the content
	// ShmText cannot communicate with the server.
	Shm, ShmText string
	Devices      []Device
}

// Request is a request of an attached client to its server.
type Request struct {
	Op     string // alloc, free, load, fault
	Device int    // ordinal
	MiB    int    `json:",omitempty"`
	SM     int    `json:",omitempty"` // percent of the GPU's SMs kept busy
	Memory int    `json:",omitempty"` // percent of the memory bandwidth
}

// Reply answers a Request or a command.
type Reply struct {
	Error   int    `json:",omitempty"`
	Message string `json:",omitempty"`
	Text    string `json:",omitempty"`
}

// Holder is what one process holds on one GPU. The fake NVML library reads it from <rack>.d/<GPU
// UUID>/<pid> (nvml/holders.c).
type Holder struct {
	MiB, SM, Memory int
	MPS, Server     bool
	ServerPID       int
	GI, CI          int // -1 outside MIG
}

// Declare writes a holder's file atomically.
func (h Holder) Declare(rack, uuid string, pid int) error {
	dir := filepath.Join(rack+".d", uuid)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	_ = os.Chmod(dir, 0o1777) // fails if another user created it
	bit := map[bool]int{true: 1}
	var b strings.Builder
	fmt.Fprintf(&b, "memory_mib %d\nsm_util %d\nmem_util %d\nmps %d\nserver %d\n", h.MiB, h.SM, h.Memory, bit[h.MPS],
		bit[h.Server])
	if h.GI >= 0 {
		fmt.Fprintf(&b, "gi %d\nci %d\n", h.GI, h.CI)
	}
	if h.ServerPID != 0 {
		fmt.Fprintf(&b, "server_pid %d\n", h.ServerPID)
	}
	path := filepath.Join(dir, strconv.Itoa(pid))
	if err := os.WriteFile(path+".new", []byte(b.String()), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Withdraw removes a holder's file.
func Withdraw(rack, uuid string, pid int) {
	_ = os.Remove(filepath.Join(rack+".d", uuid, strconv.Itoa(pid)))
}

// Refuses reports whether a GPU's compute mode keeps another process out: PROHIBITED always does,
// EXCLUSIVE_PROCESS does if the GPU already has a live process. MPS clients do not count, only
// their server does.
func Refuses(rack, uuid string) bool {
	if rack == "" {
		return false
	}
	mode, _ := os.ReadFile(filepath.Join(rack+".d", uuid+".mode"))
	switch strings.TrimSpace(string(mode)) {
	case "2":
		return true
	case "3":
	default:
		return false
	}
	holders, _ := os.ReadDir(filepath.Join(rack+".d", uuid))
	for _, h := range holders {
		text, err := os.ReadFile(filepath.Join(rack+".d", uuid, h.Name()))
		if err != nil || strings.Contains(string(text), "\nmps 1\n") {
			continue
		}
		if _, err := os.Stat("/proc/" + h.Name()); err == nil {
			return true
		}
	}
	return false
}
