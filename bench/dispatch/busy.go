package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// occupy starts n processes that only compute, at the priority of everything else, as other
// programs of a busy host would. They end with the returned function or the benchmark.
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

// computed is what busy loops compute, which nobody reads.
var computed uint64

// compute never ends.
func compute() {
	for {
		computed = computed*6364136223846793005 + 1
	}
}

// apart runs a program in a session of its own. Where the kernel groups threads by session,
// it shares out the CPU among sessions first, so all programs of the benchmark are to each
// other what services of one host are. It ends with the benchmark.
func apart() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
}
