//go:build race

package socket

import "syscall"

// The race detector learns from package syscall that what was before a write was before
// the read of it.

func receive(fd uintptr, p []byte) (int, error) { return retry(syscall.Read, fd, p) }

func send(fd uintptr, p []byte) (int, error) { return retry(syscall.Write, fd, p) }
