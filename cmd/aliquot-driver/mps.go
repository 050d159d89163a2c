package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// mpsClients asks the MPS daemon of a pipe directory for its servers, and each
// server for its clients.
func mpsClients(ctx context.Context, control, pipe string) ([]int, error) {
	servers, err := ask(ctx, control, pipe, "get_server_list")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, server := range servers {
		clients, err := ask(ctx, control, pipe, "get_client_list "+strconv.Itoa(server))
		if err != nil {
			return nil, err
		}
		out = append(out, clients...)
	}
	return out, nil
}

func ask(ctx context.Context, control, pipe, command string) ([]int, error) {
	cmd := exec.CommandContext(ctx, control)
	cmd.Env = append(os.Environ(), "CUDA_MPS_PIPE_DIRECTORY="+pipe)
	cmd.Stdin = strings.NewReader(command + "\n")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	answer, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w %s", control, command, err, bytes.TrimSpace(stderr.Bytes()))
	}
	var out []int
	for field := range strings.FieldsSeq(string(answer)) {
		if pid, err := strconv.Atoi(field); err == nil {
			out = append(out, pid)
		}
	}
	return out, nil
}
