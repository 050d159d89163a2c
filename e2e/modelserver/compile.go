package main

import (
	"context"
	"os"
	"path/filepath"
	"time"
)

// compile takes as long as compiling kernels does if Triton's cache is empty, and reports whether
// it compiled.
func compile(ctx context.Context, takes time.Duration) (bool, error) {
	dir := os.Getenv("TRITON_CACHE_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "triton")
	}
	kernel := filepath.Join(dir, "kernel.so")
	if _, err := os.Stat(kernel); err == nil || takes == 0 {
		return false, nil
	}
	if err := wait(ctx, takes); err != nil {
		return false, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	return true, os.WriteFile(kernel, []byte("kernels"), 0o755)
}
