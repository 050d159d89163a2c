package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of CPU times in /proc, 10 ms on Linux wherever Go runs.
const tick = 10 * time.Millisecond

// cpu is the time that the process and its children have computed, for itself and
// in the kernel.
func (p *process) cpu() time.Duration {
	pid := p.cmd.Process.Pid
	sum := cpuOf(pid)
	children, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	for _, path := range children {
		text, _ := os.ReadFile(path)
		for _, child := range strings.Fields(string(text)) {
			if n, err := strconv.Atoi(child); err == nil {
				sum += cpuOf(n)
			}
		}
	}
	return sum
}

func cpuOf(pid int) time.Duration {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The name in parentheses may hold spaces.
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')'):]), " ")
	fields := strings.Fields(rest)
	const user, system = 11, 12 // of proc_pid_stat(5), less state's 3
	u, _ := strconv.ParseInt(fields[user], 10, 64)
	s, _ := strconv.ParseInt(fields[system], 10, 64)
	return time.Duration(u+s) * tick
}
