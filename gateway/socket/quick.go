//go:build !race

package socket

import (
	"syscall"
	"unsafe"
)

func receive(fd uintptr, p []byte) (int, error) {
	if len(p) > maxQuick {
		return retry(syscall.Read, fd, p)
	}
	return quick(syscall.SYS_RECVFROM, fd, p)
}

func send(fd uintptr, p []byte) (int, error) {
	if len(p) > maxQuick {
		return retry(syscall.Write, fd, p)
	}
	return quick(syscall.SYS_SENDTO, fd, p)
}

// quick makes a call that never waits, whatever the mode of the descriptor.
func quick(call, fd uintptr, p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall6(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
			syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		default:
			return 0, errno
		}
	}
}
