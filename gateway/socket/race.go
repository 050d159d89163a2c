//go:build race

package socket

import "syscall"

// Use package syscall, from which the race detector learns that a write happens before the read of
// its data.

func receive(fd uintptr, p []byte) (int, error) { return retry(syscall.Read, fd, p) }

func send(fd uintptr, p []byte) (int, error) { return retry(syscall.Write, fd, p) }
