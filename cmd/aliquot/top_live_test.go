package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// topMark makes this test binary `aliquot top`.
const topMark = "ALIQUOT_TEST_TOP"

// nomadWith answers as a Nomad server with nodes of one GPU each, of which the last is the
// busiest.
func nomadWith(t *testing.T, nodes int) string {
	t.Helper()
	mux := http.NewServeMux()
	reply := func(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
	mux.HandleFunc("GET /v1/nodes", func(w http.ResponseWriter, r *http.Request) {
		var out []*api.NodeListStub
		for i := range nodes {
			out = append(out, &api.NodeListStub{ID: fmt.Sprint(i), Name: fmt.Sprintf("node-%02d", i), Status: "ready", SchedulingEligibility: "eligible",
				NodeResources: &api.NodeResources{Devices: []*api.NodeDeviceResource{{Vendor: "nvidia", Type: "gpu", Name: "t4-0",
					Instances: []*api.NodeDevice{{ID: fmt.Sprintf("GPU-%02d::00of01", i), Healthy: true}}}}}})
		}
		reply(w, out)
	})
	mux.HandleFunc("GET /v1/node/{id}/allocations", func(w http.ResponseWriter, r *http.Request) { reply(w, []*api.Allocation{}) })
	mux.HandleFunc("GET /v1/acl/token/self", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "ACL support disabled", http.StatusBadRequest)
	})
	mux.HandleFunc("GET /v1/client/stats", func(w http.ResponseWriter, r *http.Request) {
		var i int
		_, _ = fmt.Sscan(r.URL.Query().Get("node_id"), &i)
		busy := float64(i)
		reply(w, &api.HostStats{DeviceStats: []*api.DeviceGroupStats{{InstanceStats: map[string]*api.DeviceStats{
			fmt.Sprintf("GPU-%02d::00of01", i): {Stats: &api.StatObject{Attributes: map[string]*api.StatValue{"gpu_busy": {FloatNumeratorVal: &busy}}}},
		}}}})
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server.URL
}

// terminal is a pseudo-terminal and what was written to it.
type terminal struct {
	t           *testing.T
	here, there *os.File

	mu   sync.Mutex
	text strings.Builder
}

func newTerminal(t *testing.T, width, height uint16) *terminal {
	t.Helper()
	here, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	fd := int(here.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	there, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { here.Close(); there.Close() })
	out := &terminal{t: t, here: here, there: there}
	out.resize(width, height)
	go func() {
		part := make([]byte, 4096)
		for {
			n, err := here.Read(part)
			if err != nil {
				return
			}
			out.mu.Lock()
			out.text.Write(part[:n])
			out.mu.Unlock()
		}
	}()
	return out
}

func (p *terminal) resize(width, height uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.here.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height}); err != nil {
		p.t.Fatal(err)
	}
}

// screen is what was drawn last: from the last time that the cursor went home.
func (p *terminal) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := p.text.String()
	end := strings.LastIndex(text, "\x1b[J")
	if end < 0 {
		return ""
	}
	return text[strings.LastIndex(text[:end], "\x1b[H"):end]
}

func (p *terminal) until(what string, ok func(screen string) bool) {
	p.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(p.screen()); <-time.After(20 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("%s did not come; the screen is %q", what, p.screen())
		}
	}
}

func (p *terminal) press(keys string) {
	p.t.Helper()
	if _, err := p.here.WriteString(keys); err != nil {
		p.t.Fatal(err)
	}
}

// Scrolling, sorting, a window that changes its size, and an end that leaves the terminal
// as it was.
func TestTopInATerminal(t *testing.T) {
	p := newTerminal(t, 60, 10)
	before, err := term.GetState(int(p.there.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), topMark+"=1", "TERM=xterm", "NOMAD_ADDR="+nomadWith(t, 30))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.there, p.there, p.there
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	shows := func(part string) func(string) bool {
		return func(screen string) bool { return strings.Contains(screen, part) }
	}
	p.until("the first node", shows("node-00"))
	p.press("G")
	p.until("the last node", shows("node-29"))
	p.press("\x1b[A\x1b[A")
	p.until("two lines up", func(s string) bool { return strings.Contains(s, "node-28") && !strings.Contains(s, "node-29") })
	p.press("\x1b[1~")
	p.until("the top", shows("node-00"))
	p.press("s")
	p.until("the busiest node first", func(s string) bool {
		return strings.Contains(s, "node-29") && !strings.Contains(s, "node-00") && strings.Contains(s, "q quits")
	})
	p.resize(40, 5)
	p.until("a smaller window", func(s string) bool { return strings.Count(s, "\r\n") == 4 })
	for line := range strings.SplitSeq(strings.ReplaceAll(p.screen(), "\x1b[K", ""), "\r\n") {
		if n := len([]rune(strings.TrimPrefix(line, "\x1b[H"))); n > 40 {
			t.Errorf("a line of %d in a window of 40: %q", n, line)
		}
	}
	p.press("q")
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ends with %v", err)
	}
	after, err := term.GetState(int(p.there.Fd()))
	if err != nil || *after != *before {
		t.Errorf("the terminal is left as %+v, it was %+v (%v)", after, before, err)
	}
	// What the program wrote last may still be on its way through the terminal.
	p.until("the screen of before", func(string) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return strings.HasSuffix(p.text.String(), "\x1b[?25h\x1b[?1049l")
	})
}
