// Program mpscontrol stands in for nvidia-cuda-mps-control and, under that name, for
// nvidia-cuda-mps-server. It understands the real program's commands, runs one server for each user
// and accepts real clients over a socket; only the GPU is missing. ../README.md says which behavior
// of the real program could be confirmed.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"aliquot.example/e2e/rack/wire"
)

func main() {
	if filepath.Base(os.Args[0]) == "nvidia-cuda-mps-server" {
		os.Exit(serve())
	}
	options := os.Args[1:]
	multiuser := slices.Contains(options, "-multiuser-server")
	options = slices.DeleteFunc(slices.Clone(options), func(o string) bool { return o == "-multiuser-server" })
	switch strings.Join(options, " ") {
	case "-d":
		os.Exit(background(multiuser))
	case "-f":
		os.Exit(foreground(multiuser))
	case "":
		os.Exit(talk(os.Stdin, os.Stdout, os.Stderr))
	default:
		fmt.Fprintf(os.Stderr, "Unknown option %s\nUsage: nvidia-cuda-mps-control [-d | -f] [-multiuser-server]\n",
			strings.Join(options, " "))
		os.Exit(1)
	}
}

func pipeDirectory() string { return envOr("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps") }
func logDirectory() string  { return envOr("CUDA_MPS_LOG_DIRECTORY", "/var/log/nvidia-mps") }

func envOr(key, fallback string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return fallback
}

// talk sends commands to the daemon, one per line, and prints the answers.
func talk(in io.Reader, out, errs io.Writer) int {
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		reply, err := ask(line)
		if err != nil {
			fmt.Fprintln(errs, "Cannot find MPS control daemon process")
			return 1
		}
		fmt.Fprint(out, reply.Text)
		if reply.Error != 0 {
			fmt.Fprintln(out, reply.Message)
		}
	}
	return 0
}

func ask(line string) (wire.Reply, error) {
	var reply wire.Reply
	conn, err := net.Dial("unix", filepath.Join(pipeDirectory(), "control"))
	if err != nil {
		return reply, err
	}
	defer conn.Close()
	if err := json.NewEncoder(conn).Encode(wire.Hello{Command: &line}); err != nil {
		return reply, err
	}
	return reply, json.NewDecoder(conn).Decode(&reply)
}
