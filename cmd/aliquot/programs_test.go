package main

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/cli"
	"github.com/rogpeppe/go-internal/testscript"

	"aliquot.example/internal/version"
)

var plugins = []string{"aliquot-device-nvidia", "aliquot-device-amd", "aliquot-driver", "aliquot-apm", "aliquot-strategy", "aliquot-target"}

// folder is where programs were built that ALIQUOT_BIN did not name.
var folder string

func TestMain(m *testing.M) {
	if os.Getenv(topMark) != "" {
		os.Exit(topCommand{ui: &cli.BasicUi{Writer: os.Stdout, ErrorWriter: os.Stderr}}.Run([]string{"-no-services", "-interval=500ms"}))
	}
	// Stories run this binary as the command that they name.
	testscript.Main(cleaned{m}, map[string]func(){"aliquot": main})
}

// cleaned removes what tests built.
type cleaned struct{ *testing.M }

func (m cleaned) Run() int {
	status := m.M.Run()
	if folder != "" {
		os.RemoveAll(folder)
	}
	return status
}

// built returns the folder of the built programs, building them once unless
// ALIQUOT_BIN names them.
func built(t *testing.T) string {
	t.Helper()
	if bin := os.Getenv("ALIQUOT_BIN"); bin != "" {
		return bin
	}
	if folder != "" {
		return folder
	}
	var err error
	if folder, err = os.MkdirTemp("", "aliquot-programs-"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", folder+"/", "aliquot.example/cmd/...")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return folder
}

// result is how a program ended.
type result struct {
	status       int
	out, problem string
}

func execute(t *testing.T, program string, args ...string) result {
	t.Helper()
	return executeIn(t, "", nil, program, args...)
}

func executeIn(t *testing.T, dir string, environment []string, program string, args ...string) result {
	t.Helper()
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = &out, &problem
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}, environment...)
	var ended *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), problem.String()}
}

// Every program and command explains itself on stdout: how it is called, with an
// example.
func TestHelp(t *testing.T) {
	bin := built(t)
	for _, words := range [][]string{{}, {"doctor"}, {"top"}, {"gateway"}, {"router"}, {"cache"}, {"cache", "prefetch"}, {"turn"}, {"simulate"}, {"simulate", "scale"}, {"version"},
		{"node"}, {"node", "plan"}, {"node", "agent"}, {"node", "rollout"}, {"node", "status"}} {
		for _, flag := range []string{"-help", "--help", "-h"} {
			got := execute(t, filepath.Join(bin, "aliquot"), append(words, flag)...)
			name := strings.Join(append([]string{"aliquot"}, words...), " ")
			if got.status != 0 || got.problem != "" || !strings.HasPrefix(got.out, "Usage: "+name) || !strings.Contains(got.out, "\nExample:\n\n  ") {
				t.Errorf("%s %s: %+v", name, flag, got)
			}
		}
	}
	for name, command := range commands() {
		made, err := command()
		if err != nil || made.Synopsis() == "" {
			t.Errorf("%s has no synopsis, %v", name, err)
		}
		if all := execute(t, filepath.Join(bin, "aliquot"), "help").out; !strings.Contains(name, " ") && !strings.Contains(all, "\n  "+name+" ") {
			t.Errorf("aliquot help does not list %s: %s", name, all)
		}
	}
	for _, name := range plugins {
		got := execute(t, filepath.Join(bin, name), "--help")
		if got.status != 0 || got.problem != "" || !strings.HasPrefix(got.out, name+" is the ") || !strings.Contains(got.out, "\""+name+"\" {") {
			t.Errorf("%s --help: %+v", name, got)
		}
	}
	for _, name := range append(plugins, "aliquot") {
		if got := execute(t, filepath.Join(bin, name), "--version"); got.status != 0 || !strings.HasPrefix(got.out, name+" "+version.Version+" (commit ") || strings.Count(got.out, "\n") != 1 {
			t.Errorf("%s --version: %+v", name, got)
		}
	}
}

// What is wrong is told in one line that names it, with a status that is not 0.
func TestWrongUse(t *testing.T) {
	bin := built(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte("<html>\n<body>\nnot here\n</body>\n</html>\n"))
	}))
	defer page.Close()
	dir := t.TempDir()
	binary := []byte("\x7fELF")
	for i := range 4096 {
		binary = append(binary, byte(i))
	}
	files := map[string]string{
		"binary.hcl": string(binary), "open.hcl": "listen {\n", "unknown.hcl": "nonsense = 1\n", "empty.hcl": "",
		"gateway.hcl": "listen {\n  address = \"" + taken.Addr().String() + "\"\n}\nservice \"a\" {\n  replica {\n    address = \"127.0.0.1:1\"\n  }\n}\n",
		"router.hcl":  "admin = \"" + taken.Addr().String() + "\"\n",
		"trace.csv":   "arrival_s,input_tokens,output_tokens\n1,100,50\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unreachable, elsewhere := "NOMAD_ADDR=http://127.0.0.1:1", "NOMAD_ADDR="+page.URL
	for _, c := range []struct{ environment, args, want string }{
		{"", "simulate", "aliquot simulate: no command: want scale"},
		{"", "simulate load", `aliquot simulate: unknown command "load"`},
		{"", "doctor now", `aliquot doctor: unexpected argument "now"`},
		{"", "top -interval=soon", `invalid value "soon" for flag -interval`},
		{"", "top -interval=1ms", "want at least 500ms"},
		{"", "job", "aliquot job: no command: want inspect, plan, run, defrag or right-size"},
		{"", "bench -service=a/b", "-service=a/b: want the name of a service, which has no slash"},
		{"CONSUL_HTTP_ADDR=127.0.0.1:1", "bench -url=http://127.0.0.1:1 -service=a -class=l4 -slices=1of1 -save", "profiles cannot be saved in Consul"},
		{"", "bench matrix -job=empty.hcl -slices=,", `-slices="," has no count: want a list such as 5,10,20`},
		{"", "bench matrix -job=empty.hcl -slices=5 -service=a/b", "-service=a/b: want the name of a service, which has no slash"},
		{"", "job right-size", "got 0 job files: want one"},
		{unreachable, "job right-size -run empty.hcl", "connection refused"},
		{"", "job inspect none.hcl", "none.hcl: no such file"},
		{"", "job plan -var x open.hcl", `-var "x": want name=value`},
		{unreachable, "job run open.hcl", "connection refused"},
		{"", "job defrag -most=0", "must be above 0"},
		{unreachable, "top -fragmentation -demand=none.json", "none.json: no such file"},
		{"", "node", "aliquot node: no command: want plan, agent, rollout or status"},
		{"", "node upgrade", `aliquot node: unknown command "upgrade"`},
		{"", "node plan -version=latest", "-version=latest: want a full version, such as 580.126.09"},
		{"", "node plan -vendor=matrox", "-vendor=matrox: want one of nvidia, amd, intel"},
		{"", "node plan now", `unexpected argument "now"`},
		{"", "node plan -root=none", "none has no /proc and /sys: it is not the root of a host"},
		{"", "node agent -dir=state", "-dir=state: want an absolute path"},
		{"", "node agent -interval=1ms", "want at least 1s"},
		{"", "node rollout", "want one of: a file, -pause, -resume, -free=<node>"},
		{"", "node rollout -pause -resume", "want one of: a file, -pause, -resume, -free=<node>"},
		{"", "node rollout none.json", "none.json: no such file"},
		{"", "node rollout trace.csv", "trace.csv: it is not a JSON document of wanted drivers"},
		{"CONSUL_HTTP_ADDR=127.0.0.1:1", "node status", "aliquot node status: Consul:"},
		{"CONSUL_HTTP_ADDR=127.0.0.1:1", "node rollout -pause", "aliquot node rollout: Consul:"},
		{"", "demand -interval=1s", "want -learn and at least 1m"},
		{"", "gateway", "no configuration: want -config <file>"},
		{"", "router extra", `aliquot router: unexpected argument "extra"`},
		{unreachable, "top -json", "connection refused"},
		{elsewhere, "top -once", "404 (<html> <body> not here"},
		{"NOMAD_ADDR=nomad", "top -once", "unsupported protocol scheme"},
		{"", "gateway -config none.hcl", "none.hcl: no such file"},
		{"", "gateway -config .", "is a directory"},
		{"", "gateway -config binary.hcl", "binary.hcl:1: Invalid character"},
		{"", "gateway -config open.hcl", "open.hcl:1: Unclosed configuration block"},
		{"", "gateway -config unknown.hcl", "unknown.hcl:1: Unsupported argument"},
		{"", "gateway -config empty.hcl", "no service block"},
		{"", "gateway -config gateway.hcl", "address already in use"},
		{"", "router -config none.hcl", "none.hcl: no such file"},
		{"", "router -config binary.hcl -check", "binary.hcl:1: Invalid character"},
		{"", "router -config open.hcl", "open.hcl:1: Unclosed configuration block"},
		{"", "router -config unknown.hcl", "unknown.hcl:1: Unsupported argument"},
		{"", "router -config router.hcl", "address already in use"},
		{"", "simulate scale -trace binary.hcl -policy slots=2", `trace: line 1 is "\x7fELF`},
		{"", "simulate scale -trace . -policy slots=2", "is a directory"},
		{"", "simulate scale -trace trace.csv -policy none.hcl", "none.hcl"},
	} {
		got := executeIn(t, dir, strings.Fields(c.environment), filepath.Join(bin, "aliquot"), strings.Fields(c.args)...)
		if got.status == 0 || got.out != "" || !strings.Contains(got.problem, c.want) || strings.Count(got.problem, "\n") != 1 || len(got.problem) > 700 {
			t.Errorf("%s aliquot %s: %+v, want one line with %q", c.environment, c.args, got, c.want)
		}
	}
	for _, name := range plugins {
		for _, args := range [][]string{nil, {"--slices=3"}} {
			got := execute(t, filepath.Join(bin, name), args...)
			if got.status == 0 || got.out != "" || !strings.HasPrefix(got.problem, name+": ") || !strings.Contains(got.problem, "see "+name+" -help") || strings.Count(got.problem, "\n") != 1 {
				t.Errorf("%s %v: %+v", name, args, got)
			}
		}
	}
}

func TestCheckedFiles(t *testing.T) {
	bin := built(t)
	path := file(t, "gateway.hcl", "service \"a\" {\n  replica {\n    address = \"127.0.0.1:1\"\n  }\n}\n")
	if got := execute(t, filepath.Join(bin, "aliquot"), "gateway", "-config", path, "-check"); got.status != 0 || got.out != path+" is a valid configuration of the gateway\n" {
		t.Errorf("%+v", got)
	}
	path = file(t, "router.hcl", "owner = \"me\"\n")
	if got := execute(t, filepath.Join(bin, "aliquot"), "router", "-config", path, "-check"); got.status != 0 || got.out != path+" is a valid configuration of the router\n" {
		t.Errorf("%+v", got)
	}
}
