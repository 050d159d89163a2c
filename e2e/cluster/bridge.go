package cluster

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// removeBridge deletes the bridge that Nomad made for tasks in bridge mode. Nomad
// leaves it behind on purpose; a test must not.
func removeBridge(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return nil // no task used bridge mode
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
