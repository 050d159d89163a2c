package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cpu returns the CPU time, user and system, of the process and its children. It misses threads
// that have ended, but none of these programs ends its threads.
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

// cpuOf reads the scheduler's count in nanoseconds, because /proc/PID/stat has steps of 10 ms.
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
