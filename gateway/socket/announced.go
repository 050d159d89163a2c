package socket

import "syscall"

// retry repeats a call of package syscall if a signal interrupted it.
func retry(call func(fd int, p []byte) (int, error), fd uintptr, p []byte) (int, error) {
	for {
		n, err := call(int(fd), p)
		if err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
