package main

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// SIGHUP reloads; with a file that is wrong the gateway goes on as it was.
func TestSIGHUPReloadsTheGateway(t *testing.T) {
	const text = "listen {\n  address = \"127.0.0.1:0\"\n}\ndrain {\n  delay = \"0s\"\n}\nservice \"a\" {\n  replica {\n    address = \"127.0.0.1:1\"\n  }\n}\n"
	path := file(t, "gateway.hcl", text)
	cmd := exec.CommandContext(t.Context(), filepath.Join(built(t), "aliquot"), "gateway", "-config", path)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	await := func(what string) {
		t.Helper()
		for lines.Scan() {
			if strings.Contains(lines.Text(), what) {
				return
			}
		}
		t.Fatalf("the log ends without %q", what)
	}
	await("gateway is serving")
	for _, step := range []struct{ text, says string }{
		{text + "colour = \"red\"\n", "configuration not reloaded"},
		{strings.Replace(text, `"a"`, `"b"`, 1), "configuration reloaded"},
	} {
		if err := os.WriteFile(path, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Process.Signal(syscall.SIGHUP)
		await(step.says)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Errorf("the gateway ends with %v", err)
	}
}
