package jobs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"aliquot.example/e2e/ports"
)

// nomadBinary returns the path of a real Nomad, building it where it is nowhere.
func nomadBinary(t *testing.T) string {
	t.Helper()
	var problem bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "../scripts/tools", "--path", "nomad")
	cmd.Stderr = &problem
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("no nomad: %v: %s", err, problem.String())
	}
	return strings.TrimSpace(string(out))
}

// startNomad starts a Nomad server with ACLs that ends with the test. A server
// parses and validates; nothing is ever placed.
func startNomad(t *testing.T) *api.Client {
	t.Helper()
	dir := t.TempDir()
	own, err := ports.Free(3)
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "server.hcl")
	text := fmt.Sprintf(`
data_dir             = %q
bind_addr            = "127.0.0.1"
disable_update_check = true

advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
  serf = "127.0.0.1"
}

ports {
  http = %d
  rpc  = %d
  serf = %d
}

server {
  enabled          = true
  bootstrap_expect = 1
}

acl {
  enabled = true
}
`, filepath.Join(dir, "data"), own[0], own[1], own[2])
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(nomadBinary(t), "agent", "-config", config)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the server's log:\n%s", log.String())
		}
	})
	client, err := api.NewClient(&api.Config{Address: fmt.Sprintf("http://127.0.0.1:%d", own[0])})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "a leader", func() error {
		token, _, err := client.ACLTokens().Bootstrap(nil)
		if err == nil {
			client.SetSecretID(token.SecretID)
		}
		return err
	})
	// Its keyring comes some time after the leader.
	await(t, "a keyring", func() error {
		_, _, err := client.Variables().Create(&api.Variable{Path: "ready", Items: api.VariableItems{"is": "true"}}, nil)
		return err
	})
	return client
}

func await(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the server has no %s: %v", strings.TrimPrefix(what, "a "), err)
		case <-tick.C:
		}
	}
}
