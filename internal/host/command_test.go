package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A program that hangs ends with its context, though a child of it holds its pipes.
func TestAProgramThatHangs(t *testing.T) {
	ctx, end := context.WithCancelCause(t.Context())
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "started"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := Running.Output(ctx, "sh", "-c", "sleep 1000 & rm "+dir+"/started; wait")
		done <- err
	}()
	for {
		if _, err := os.Stat(filepath.Join(dir, "started")); err != nil {
			break
		}
		select {
		case err := <-done:
			t.Fatalf("it did not start: %v", err)
		case <-time.After(time.Millisecond):
		}
	}
	end(errors.New("it took longer than 1m"))
	if err := <-done; err == nil || !strings.Contains(err.Error(), "sh was killed: it took longer than 1m") {
		t.Errorf("%v", err)
	}
}

// A program that leaves a service behind has come to its end.
func TestAProgramThatLeavesAService(t *testing.T) {
	out, err := Running.Output(t.Context(), "sh", "-c", "sleep 1000 & echo $!")
	if err != nil || out == "" {
		t.Fatalf("%q, %v", out, err)
	}
	if _, err := Running.Output(t.Context(), "sh", "-c", "kill "+strings.TrimSpace(out)); err != nil {
		t.Error(err)
	}
}
