package aliquot

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tasks of a server in FAULT are ended with the reason, so that Nomad starts them
// again; they would stay, with dead contexts, and keep the GPU from all others.
func TestTasksOfAFaultedServerAreEnded(t *testing.T) {
	m := newMPSMachine(t)
	s := m.ship(t, patience)
	probeImage(t, s.engine, "aliquot-test:mps")
	victim := s.job(`{"image": "aliquot-test:mps", "args": ["cuda"]}`, reserved(m.grant), nil)
	s.run(victim)
	s.event(t, "GPU attachment verified")
	bystander := s.job(`{"image": "aliquot-test:mps", "args": ["stay"]}`, nil, nil)
	s.run(bystander)
	exit, err := s.WaitTask(t.Context(), victim.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(m.server(t), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	e := s.event(t, "lost its GPU: the MPS server of h100-0 is in FAULT", "so that Nomad restarts it")
	if e.AllocID != victim.AllocID {
		t.Errorf("event %+v", e)
	}
	select {
	case result := <-exit:
		if result.Successful() || result.Err == nil || !strings.Contains(result.Err.Error(), "is in FAULT") {
			t.Errorf("exit %+v", result)
		}
	case <-time.After(patience):
		t.Fatal("the task was not ended")
	}
	if status, err := s.InspectTask(bystander.ID); err != nil || status.State != "running" {
		t.Errorf("a task without that GPU: %+v, %v", status, err)
	}
}

// server is the PID of the machine's MPS server.
func (m mpsMachine) server(t *testing.T) int {
	t.Helper()
	cmd := exec.Command(m.control)
	cmd.Env = append(m.env, "CUDA_MPS_PIPE_DIRECTORY="+m.grant.Pipe)
	cmd.Stdin = strings.NewReader("get_server_list\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatalf("MPS servers %q", out)
	}
	return pid
}

// A daemon makes other users than its clients' wait; the message says so and what to
// do.
func TestOtherUserThanTheDaemonServesIsNamed(t *testing.T) {
	m := newMPSMachine(t)
	s := m.ship(t, patience)
	probeImage(t, s.engine, "aliquot-test:mps")
	root := s.job(`{"image": "aliquot-test:mps", "args": ["cuda"]}`, reserved(m.grant), nil)
	s.run(root)
	s.event(t, "GPU attachment verified")
	other := s.job(`{"image": "aliquot-test:mps", "args": ["stay"], "attachment_timeout": "1s"}`, reserved(m.grant), nil)
	other.User = "1000:1000"
	s.run(other)
	s.event(t, "GPU attachment not seen", "the task runs as user 1000, but the daemon serves user 0", "mps_multi_user = true")
}
