package aliquot

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"

	"aliquot.example/internal/agent"
	machine "aliquot.example/internal/host"
)

func TestDanglingContainersByAgentConfiguration(t *testing.T) {
	off := `plugin "docker" {
		config {
			gc {
				dangling_containers {
					enabled = false
				}
			}
		}
	}`
	for name, c := range map[string]struct {
		files []string
		set   settings
		want  string
	}{
		"nothing is configured":        {nil, settings{}, danglingUnsafe},
		"another plugin's block":       {[]string{`plugin "raw_exec" { config { enabled = true } }`}, settings{}, danglingUnsafe},
		"switched off":                 {[]string{off}, settings{}, danglingSafe},
		"switched off in JSON":         {[]string{`{"plugin": [{"docker": [{"config": [{"gc": [{"dangling_containers": [{"enabled": false}]}]}]}]}]}`}, settings{}, danglingSafe},
		"only looked for":              {[]string{strings.Replace(off, "enabled = false", "dry_run = true", 1)}, settings{}, danglingSafe},
		"gc without it":                {[]string{`plugin "docker" { config { gc { image = false } } }`}, settings{}, danglingUnsafe},
		"a later file replaces":        {[]string{off, `plugin "docker" { config { allow_privileged = true } }`}, settings{}, danglingUnsafe},
		"a later file without config":  {[]string{off, `plugin "docker" { args = ["x"] }`}, settings{}, danglingSafe},
		"denied":                       {[]string{`client { options = { "driver.denylist" = "java, docker" } }`}, settings{}, danglingSafe},
		"others are denied":            {[]string{`client { options = { "driver.denylist" = "java" } }`}, settings{}, danglingUnsafe},
		"not allowed":                  {[]string{`client { options { "driver.allowlist" = "aliquot,raw_exec" } }`}, settings{}, danglingSafe},
		"allowed":                      {[]string{`client { options { "driver.allowlist" = "aliquot,docker" } }`}, settings{}, danglingUnsafe},
		"a form of another release":    {[]string{strings.Replace(off, "enabled = false", `enabled = "perhaps"`, 1)}, settings{}, danglingUnknown},
		"another engine":               {[]string{`plugin "docker" { config { endpoint = "unix:///run/other.sock" } }`}, settings{}, danglingSafe},
		"the same engine by two names": {[]string{`plugin "docker" { config { endpoint = "unix:///run/docker.sock" } }`}, settings{}, danglingUnsafe},
		"this driver removes":          {[]string{off}, settings{removes: true}, danglingUnsafe},
		"this driver removes, alone":   {[]string{`client { options = { "driver.denylist" = "docker" } }`}, settings{removes: true}, danglingSafe},
	} {
		config := agent.Config{Options: map[string]string{}}
		for _, file := range c.files {
			if err := config.Merge(file); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got, why := danglingOf(config, c.set); got != c.want || (got == danglingSafe) != (why == "") {
			t.Errorf("%s: %s (%s), want %s", name, got, why, c.want)
		}
	}
}

// standIn starts a process with the command line of an agent.
func standIn(t *testing.T, dir string, args ...string) int {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{"nomad"}, args...)
	cmd.Env = append(os.Environ(), "ALIQUOT_TEST_STAND_IN=1")
	cmd.Dir = dir
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	// Its command line is the agent's from exec on, which its first byte proves.
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

func TestAgentIsReadFromItsCommandLine(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	off := `plugin "docker" { config { gc { dangling_containers { enabled = false } } } }`
	off = strings.NewReplacer("{ ", "{\n", " }", "\n}").Replace(off)
	if err := os.Mkdir(filepath.Join(dir, "nomad.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("nomad.d/docker.hcl", off)
	write("nomad.d/docker.hcl~", `plugin "docker" {`)
	write("broken.hcl", `plugin "docker" {`)
	for name, c := range map[string]struct {
		args       []string
		want, fail string
	}{
		"folder":          {[]string{"agent", "-config=nomad.d"}, danglingSafe, ""},
		"two arguments":   {[]string{"agent", "-dev", "-config", filepath.Join(dir, "nomad.d/docker.hcl")}, danglingSafe, ""},
		"no file":         {[]string{"agent", "-dev"}, danglingUnsafe, ""},
		"file is gone":    {[]string{"agent", "-config=gone.hcl"}, "", "gone.hcl: no such file"},
		"file is broken":  {[]string{"agent", "-config=broken.hcl"}, "", "broken.hcl"},
		"another program": {[]string{"job", "run"}, "", "is not a Nomad agent"},
	} {
		config, err := agent.Read(machine.Running, standIn(t, dir, c.args...))
		if c.fail != "" {
			if err == nil || !strings.Contains(err.Error(), c.fail) {
				t.Errorf("%s: %v, want %q", name, err, c.fail)
			}
			continue
		}
		if got, _ := danglingOf(config, settings{}); err != nil || got != c.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, c.want)
		}
	}
}

func TestUnsafeDriverIsUnhealthyUnlessTold(t *testing.T) {
	for check, want := range map[string]drivers.HealthState{
		DanglingEnforce: drivers.HealthStateUnhealthy, DanglingWarn: drivers.HealthStateHealthy, DanglingOff: drivers.HealthStateHealthy,
	} {
		d := New(t.Context(), hclog.NewNullLogger(), MPS{})
		d.agent, d.dangling, d.danglingWhy = os.Getppid(), danglingUnsafe, "the agent's docker driver removes"
		fp := d.guard(settings{dangling: check}, &drivers.Fingerprint{Health: drivers.HealthStateHealthy, Attributes: map[string]*pstructs.Attribute{}})
		if fp.Health != want {
			t.Errorf("%s: %s", check, fp.Health)
		}
		if want == drivers.HealthStateUnhealthy && !strings.Contains(fp.HealthDescription, "dangling_containers { enabled = false }") {
			t.Errorf("%s: %q", check, fp.HealthDescription)
		}
	}
}
