package cluster

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// removeBridge deletes the bridge that Nomad made for tasks in bridge mode. Nomad
// leaves it behind on purpose; a test must not.
func removeBridge(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return nil // no task used bridge mode
	}
	if err := removeRules(name); err != nil {
		return err
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	// A bridge must be down before it can go.
	request.SetUint16(0)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	pointer, err := unix.BytePtrFromString(name)
	if err != nil {
		return err
	}
	if err := deleteBridge(socket, pointer); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("bridge %s: %w", name, err)
	}
	return nil
}

// deleteBridge asks the kernel to delete a bridge by name.
func deleteBridge(socket int, name *byte) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(socket), unix.SIOCBRDELBR, uintptr(unsafe.Pointer(name)))
	if errno != 0 {
		return errno
	}
	return nil
}

// removeRules deletes the firewall rules that Nomad made for the bridge, in its
// own chain.
func removeRules(bridge string) error {
	rules, err := exec.Command("iptables", "-S", "NOMAD-ADMIN").Output()
	if err != nil {
		return nil // no such chain, no rules
	}
	for rule := range strings.Lines(string(rules)) {
		fields := strings.Fields(rule)
		if len(fields) == 0 || fields[0] != "-A" || !slices.Contains(fields, bridge) {
			continue
		}
		fields[0] = "-D"
		if out, err := exec.Command("iptables", fields...).CombinedOutput(); err != nil {
			return fmt.Errorf("iptables %s: %w: %s", strings.Join(fields, " "), err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
