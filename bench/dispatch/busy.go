package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// occupy starts n processes that only compute, at normal priority, like other programs on a busy
// host. They end when end is called or the benchmark ends.
func occupy(n int) (end func(), err error) {
	var loops []*exec.Cmd
	end = func() {
		for _, l := range loops {
			l.Process.Kill()
			l.Wait()
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	for range n {
		l := exec.Command(self, "-serve", "busy")
		l.Env = append(os.Environ(), "GOMAXPROCS=1")
		l.SysProcAttr = apart()
		if err := l.Start(); err != nil {
			end()
			return nil, fmt.Errorf("starting a busy loop: %w", err)
		}
		loops = append(loops, l)
	}
	return end, nil
}

// computed is the result of compute, which nothing reads.
var computed uint64

// compute never returns.
func compute() {
	for {
		computed = computed*6364136223846793005 + 1
	}
}

// apart runs a program in a new session. If the kernel groups threads by session, it divides the
// CPU among sessions first, so the programs of the benchmark compete like services on one host. The
// program ends with the benchmark.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}
