package rack_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"aliquot.example/e2e/rack"
)

func TestControlWithoutDaemon(t *testing.T) {
	t.Parallel()
	out, code := newMachine(t, "h100").control("get_default_active_thread_percentage\n")
	if code != 1 || !strings.Contains(out, "Cannot find MPS control daemon process") {
		t.Fatalf("exit status %d: %s", code, out)
	}
}

func TestDaemonConversation(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100-t4")
	m.daemon()
	if got := m.say("get_default_active_thread_percentage"); got != "100.0" {
		t.Fatalf("default percentage %q", got)
	}
	if got := m.say("get_server_list"); got != "" {
		t.Fatalf("servers before the first client: %q", got)
	}
	c := attach(t, m, "CUDA_VISIBLE_DEVICES="+m.gpu)
	server := m.say("get_server_list")
	if server == "" || server != strconv.Itoa(c.Context.Server) {
		t.Fatalf("server list %q, client says %d", server, c.Context.Server)
	}
	pid := strconv.Itoa(c.pid())
	if got := m.say("get_server_status " + server); got != "ACTIVE" {
		t.Fatalf("status %q", got)
	}
	if got := m.say("get_client_list " + server); got != pid {
		t.Fatalf("clients %q, want %s", got, pid)
	}
	if got := m.say("get_device_client_list"); !strings.Contains(got, m.gpu) || !strings.Contains(got, "\n"+pid) {
		t.Fatalf("device client list %q", got)
	}
	ps := strings.Split(m.say("ps"), "\n")
	if fields := strings.Fields(ps[len(ps)-1]); len(ps) != 2 || fields[0] != pid || fields[2] != server || !strings.HasPrefix(m.gpu, fields[3]) {
		t.Fatalf("ps %q", ps)
	}
	if out, code := m.control("no_such_command\n"); code != 0 || !strings.Contains(out, "Unknown command") {
		t.Fatalf("exit status %d: %s", code, out)
	}
	if got := m.say("terminate_client " + server + " " + pid); got != "0" {
		t.Fatalf("terminate_client says %q", got)
	}
	if code := c.do("alloc 1"); code != 810 {
		t.Fatalf("a terminated client got %d, want 810", code)
	}
}

func TestShareOfTheGPU(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name                string
		percentage          string
		limit               string
		before              string // command
		wantSMs, wantLimit  int
		fits, tooMuch, free string
	}{
		{"6 of 20 slices", "30", "0=24302M", "", 38, 24302, "alloc 24302", "alloc 1", "free 302"},
		{"10 of 20 slices", "50", "0=40504M", "", 66, 40504, "alloc 40504", "alloc 1", "free 1"},
		{"no share", "", "", "", 132, 0, "alloc 81050", "alloc 1", "free 1"},
		{"the client cannot raise the server's", "80", "0=60G", "set_default_active_thread_percentage 25\nset_default_device_pinned_mem_limit 0 20G", 32, 20480, "alloc 20480", "alloc 1", "free 1"},
		{"a limit that cannot be read is none", "30.5%", "0=lots", "", 132, 0, "alloc 100", "alloc 90000", "free 1"},
		{"the smallest share", "1", "0=1G", "", 2, 1024, "alloc 1000", "alloc 25", "free 976"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, "h100")
			m.daemon()
			if c.before != "" {
				m.say(c.before)
			}
			p := attach(t, m, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE="+c.percentage, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT="+c.limit)
			if p.Code != 0 || !p.Context.MPS {
				t.Fatalf("%+v", p.opened)
			}
			if d := p.Context.Devices[0]; d.UUID != m.gpu || d.SMs != c.wantSMs || d.Limit != c.wantLimit || d.Total != 132 {
				t.Fatalf("%+v", d)
			}
			for _, step := range []struct {
				line string
				want int
			}{{c.fits, 0}, {c.tooMuch, 2}, {c.free, 0}, {c.tooMuch, map[bool]int{true: 2}[c.name == "a limit that cannot be read is none"]}} {
				if got := p.do(step.line); got != step.want {
					t.Errorf("%s: CUDA error %d, want %d", step.line, got, step.want)
				}
			}
		})
	}
}

func TestLimitsArePerProcess(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	limit := "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=" + m.gpu + "=30G"
	first, second := attach(t, m, limit), attach(t, m, limit)
	for _, c := range []*client{first, second} {
		if code := c.do("alloc 30720"); code != 0 {
			t.Fatalf("CUDA error %d", code)
		}
	}
	if code := attach(t, m).do("alloc 30720"); code != 2 {
		t.Fatalf("the GPU is full, yet got %d", code)
	}
}

func TestFaultHitsEveryClientAndClearsWhenTheyLeft(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	culprit, bystander := attach(t, m), attach(t, m)
	server := m.say("get_server_list")
	if code := culprit.do("fault"); code != 719 {
		t.Fatalf("culprit got %d", code)
	}
	if code := bystander.do("alloc 1"); code != 719 {
		t.Fatalf("bystander got %d", code)
	}
	if got := m.say("get_server_status " + server); got != "FAULT" {
		t.Fatalf("status %q", got)
	}
	if c := attach(t, m); c.Code != 807 {
		t.Fatalf("a new client got %+v", c.opened)
	}
	culprit.exit()
	if got := m.say("get_server_status " + server); got != "FAULT" {
		t.Fatalf("status with one client left %q", got)
	}
	bystander.exit()
	until(t, "ACTIVE again", func() bool { return m.say("get_server_status "+server) == "ACTIVE" })
	if c := attach(t, m); c.Code != 0 {
		t.Fatalf("after recovery: %+v", c.opened)
	}
}

func TestFaultBySignal(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	c := attach(t, m)
	if err := rack.Fault(c.Context.Server); err != nil {
		t.Fatal(err)
	}
	until(t, "FAULT", func() bool { return m.say("get_server_status "+strconv.Itoa(c.Context.Server)) == "FAULT" })
}

func TestSecondDaemonIsRecorded(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	if out, code := m.control("", "-d"); code != 1 || !strings.Contains(out, "An instance of this daemon is already running") {
		t.Fatalf("same pipe directory: exit status %d: %s", code, out)
	}
	other := *m
	other.pipe = filepath.Join(m.dir, "pipe2")
	if err := os.Mkdir(other.pipe, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, code := other.control("", "-d"); code != 0 {
		t.Fatalf("same GPU: exit status %d: %s", code, out)
	}
	defer other.control("quit\n")
	starts, err := m.rack.Daemons()
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.IndexFunc(starts, func(s rack.DaemonEvent) bool { return s.What == rack.SecondDaemon && s.Pipe == other.pipe }); got < 0 {
		t.Fatalf("no record of the second daemon: %+v", starts)
	}
}

func TestKilledDaemonLeavesItsSocketAndIsReplaced(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	attached := attach(t, m)
	first := m.daemonPID()
	kill(t, first)
	if _, err := os.Lstat(filepath.Join(m.pipe, "control")); err != nil {
		t.Fatalf("the socket went with the daemon: %v", err)
	}
	if out, code := m.control("get_server_list\n"); code != 1 {
		t.Fatalf("exit status %d: %s", code, out)
	}
	if c := attach(t, m, "CUDA_VISIBLE_DEVICES="+m.gpu); c.Code != 0 || c.Context.MPS {
		t.Fatalf("without a daemon: %+v", c.opened)
	}
	if code := attached.do("alloc 1"); code != 0 {
		t.Fatalf("a client of the surviving server got %d", code)
	}
	attached.exit()
	until(t, "the server to follow its daemon", func() bool { return !alive(attached.Context.Server) })
	m.daemon()
	if c := attach(t, m); c.Code != 0 || !c.Context.MPS || c.Context.Server == attached.Context.Server {
		t.Fatalf("after the restart: %+v", c.opened)
	}
}

func TestKilledServerIsReplacedForTheNextClient(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	c := attach(t, m)
	kill(t, c.Context.Server)
	if code := c.do("alloc 1"); code != 806 {
		t.Fatalf("client of a killed server got %d", code)
	}
	until(t, "the daemon to notice", func() bool { return m.say("get_server_list") == "" })
	if next := attach(t, m); next.Code != 0 || next.Context.Server == c.Context.Server {
		t.Fatalf("%+v", next.opened)
	}
}

func TestAnotherUserWaits(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	c := attach(t, m)
	other := launch(t, m, 65534)
	answered := make(chan struct{})
	go func() {
		other.await()
		close(answered)
	}()
	log := filepath.Join(m.logs, "control.log")
	until(t, "the other user to wait", func() bool { return contains(log, "User 65534 waits") })
	select {
	case <-answered:
		t.Fatal("two users were served at a time")
	default:
	}
	c.exit()
	<-answered
	if other.Code != 0 || other.Context.Server == c.Context.Server {
		t.Fatalf("%+v", other.opened)
	}
}

func TestClientsOfAStartingServerWait(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	edit(t, m.rack.SetDriver("mps_starting", true))
	m.daemon()
	m.say("start_server -uid 0")
	server := m.say("get_server_list")
	if got := m.say("get_server_status " + server); got != "INITIALIZING" {
		t.Fatalf("status %q", got)
	}
	c := launch(t, m, 0)
	until(t, "the client to be heard", func() bool {
		return contains(filepath.Join(m.logs, "control.log"), "NEW CLIENT "+strconv.Itoa(c.pid()))
	})
	if got := m.say("get_client_list " + server); got != "" {
		t.Fatalf("clients of a starting server: %q", got)
	}
	edit(t, m.rack.SetDriver("mps_starting", false))
	if c.await(); c.Code != 0 {
		t.Fatalf("%+v", c.opened)
	}
	if got := m.say("get_server_status " + server); got != "ACTIVE" {
		t.Fatalf("status %q", got)
	}
}

func TestQuit(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	c := attach(t, m)
	server := c.Context.Server
	done := make(chan struct{})
	go func() {
		m.control("quit\n")
		close(done)
	}()
	until(t, "quit to be heard", func() bool { return attachFails(t, m) })
	select {
	case <-done:
		t.Fatal("quit did not wait for the client")
	default:
	}
	c.exit()
	<-done
	until(t, "the daemon to be gone", func() bool { return !alive(server) && m.daemonPID() == 0 })
}

func attachFails(t *testing.T, m *machine) bool {
	c := attach(t, m)
	defer c.exit()
	return c.Code != 0
}

func TestQuitWithTimeout(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	c := attach(t, m)
	m.say("quit -t 0")
	until(t, "the server to be gone", func() bool { return !alive(c.Context.Server) })
}

func TestSixtiethClient(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "t4") // CUDA 13.2 serves 60 clients
	m.daemon()
	clients := make([]*client, 60)
	for i := range clients {
		clients[i] = launch(t, m, 0)
	}
	for i, c := range clients {
		if c.await(); c.Code != 0 {
			t.Fatalf("client %d: %+v", i, c.opened)
		}
	}
	if c := attach(t, m); c.Code != 808 {
		t.Fatalf("client 61: %+v", c.opened)
	}
}

func TestWholeGPUSeesNoOther(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "8xh100")
	uuid := m.file.GPUs[3].UUID()
	for _, g := range []int{0, 1, 2, 4, 5, 6, 7} {
		if err := os.Remove(filepath.Join(m.root, "dev", "nvidia"+strconv.Itoa(g))); err != nil {
			t.Fatal(err)
		}
	}
	if c := attach(t, m); c.Code != 0 || c.Context.MPS || len(c.Context.Devices) != 1 || c.Context.Devices[0].UUID != uuid {
		t.Fatalf("%+v", c.opened)
	}
	if c := attach(t, m, "CUDA_VISIBLE_DEVICES="+m.file.GPUs[0].UUID()); c.Code != 100 {
		t.Fatalf("a GPU without its node: %+v", c.opened)
	}
}

func TestMIGDevice(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "a100-mig")
	mig := m.file.GPUs[0].MIG[1]
	c := attach(t, m, "CUDA_VISIBLE_DEVICES="+mig.UUID())
	if c.Code != 0 || len(c.Context.Devices) != 1 || c.Context.Devices[0].SMs != 28 || c.Context.Devices[0].Memory != 9856 {
		t.Fatalf("%+v", c.opened)
	}
	if c := attach(t, m); c.Code != 0 || c.Context.Devices[0].UUID != m.file.GPUs[0].MIG[0].UUID() {
		t.Fatalf("without CUDA_VISIBLE_DEVICES: %+v", c.opened)
	}
	gi, _ := rack.CapMinors(0, mig.Int("gi"), mig.Int("ci"))
	if err := os.Remove(filepath.Join(m.root, "dev/nvidia-caps/nvidia-cap"+strconv.Itoa(gi))); err != nil {
		t.Fatal(err)
	}
	if c := attach(t, m, "CUDA_VISIBLE_DEVICES="+mig.UUID()); c.Code != 100 {
		t.Fatalf("without the capability node: %+v", c.opened)
	}
}

func TestClientFindsTheRackInTheDriverLibrary(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "t4")
	c := attach(t, m, "ALIQUOT_RACK=")
	if c.Code != 0 || c.Context.Devices[0].Name != "Tesla T4" {
		t.Fatalf("%+v", c.opened)
	}
}

// A lost GPU accepts no client, and its existing clients fail.
func TestALostGPUServesNobody(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "h100")
	m.daemon()
	c := attach(t, m)
	edit(t, m.rack.Lose(m.gpu))
	if d := attach(t, m); d.Code != 100 {
		t.Errorf("a client of a lost GPU: %+v", d.opened)
	}
	if code := c.do("alloc 1"); code == 0 {
		t.Error("a client of a lost GPU has memory")
	}
}
