package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cpu is the time that the threads of the process and its children have run, for
// themselves and in the kernel. What threads ran that ended meanwhile is not counted;
// none of the programs here ends its threads.
func (p *process) cpu() time.Duration {
	pid := strconv.Itoa(p.cmd.Process.Pid)
	sum := cpuOf(pid)
	children, _ := filepath.Glob("/proc/" + pid + "/task/*/children")
	for _, path := range children {
		text, _ := os.ReadFile(path)
		for _, child := range strings.Fields(string(text)) {
			sum += cpuOf(child)
		}
	}
	return sum
}

// cpuOf reads the scheduler's own count in nanoseconds; that of /proc/PID/stat is in
// steps of 10 ms.
func cpuOf(pid string) time.Duration {
	var sum time.Duration
	threads, _ := filepath.Glob("/proc/" + pid + "/task/*/schedstat")
	for _, path := range threads {
		text, _ := os.ReadFile(path)
		ran, _, _ := strings.Cut(string(text), " ")
		n, _ := strconv.ParseInt(ran, 10, 64)
		sum += time.Duration(n)
	}
	return sum
}
