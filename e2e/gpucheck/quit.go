package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"aliquot.example/internal/mps"
)

// waitingQuit tells the daemon to quit while it has a client, and returns what the daemon does
// until the client has exited.
func (l testbed) waitingQuit(ctx context.Context) (string, error) {
	r, env, err := l.reserved(5)
	if err != nil {
		return "", err
	}
	c, err := launch(ctx, l.program, env, 0)
	if err != nil {
		return "", err
	}
	defer c.close()
	if _, err := attached(ctx, r.grant.Pipe, c.cmd.Process.Pid); err != nil {
		return "", err
	}
	before := l.control.Process()
	quit := exec.CommandContext(ctx, mps.Program)
	quit.Env = append(os.Environ(), "CUDA_MPS_PIPE_DIRECTORY="+l.control.Pipe)
	quit.Stdin = strings.NewReader("quit\n")
	if err := quit.Start(); err != nil {
		return "", err
	}
	returned := make(chan struct{})
	go func() {
		_ = quit.Wait()
		close(returned)
	}()
	waits := "returns at once"
	select {
	case <-returned:
	case <-time.After(3 * time.Second):
		waits = "waits"
	}
	answers := "answers"
	if _, err := l.control.Servers(ctx); err != nil {
		answers = "does not answer (" + err.Error() + ")"
	}
	second := "takes another client"
	if other, err := launch(ctx, l.program, env, 0); err != nil {
		second = "takes no other client (" + err.Error() + ")"
	} else if err := other.close(); err != nil {
		return "", err
	}
	early := l.control.Process() != before
	if err := c.close(); err != nil {
		return "", err
	}
	if err := l.await(ctx, func() bool { return l.control.Process() != before }); err != nil {
		return "", fmt.Errorf("the daemon did not end after its client: %w", err)
	}
	if early {
		return "it ends before its client", l.serves(ctx)
	}
	return fmt.Sprintf("quit %s; meanwhile the daemon %s and %s", waits, answers, second), l.serves(ctx)
}
