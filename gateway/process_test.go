package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"aliquot.example/gateway"
	"aliquot.example/gateway/config"
	"aliquot.example/gateway/discovery"
)

// ownProcess names the variable that holds the configuration of a gateway that is to
// run in this process in place of the tests.
const ownProcess = "ALIQUOT_TEST_GATEWAY"

func TestMain(m *testing.M) {
	text := os.Getenv(ownProcess)
	if text == "" {
		os.Exit(runEachWay(m))
	}
	if err := runAlone(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// runAlone runs a gateway until standard input ends, and prints where it listens.
func runAlone(text string) error {
	c, err := config.Parse([]byte(text), "test.hcl")
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	sources := discovery.Sources{Log: log}
	server, err := gateway.New(inThisWay(c), gateway.Options{Log: log, Source: func(s config.Service) (gateway.Source, error) { return sources.Of(s.Source), nil }})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	go func() {
		<-server.Ready()
		fmt.Println(server.Addresses())
	}()
	return server.Run(ctx)
}

// alone is a gateway in a process of its own.
type alone struct {
	*running
	pid int
	log lockedBuffer
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// startAlone runs a gateway that may open so many files.
func startAlone(t *testing.T, text string, files uint64) *alone {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g := &alone{}
	// The limit is set by the shell, which then becomes the gateway.
	cmd := exec.Command("sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$0"`, files), exe)
	cmd.Env = append(os.Environ(), ownWay+"="+strconv.Itoa(inUse), ownProcess+"="+text+`
		admin { address = "127.0.0.1:0" }
		access_log = "off"
		drain {
			delay   = "0s"
			timeout = "5s"
		}
	`)
	cmd.Stderr = &g.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the gateway ended with %v:\n%s", err, g.log.String())
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the gateway does not listen: %v\n%s", err, g.log.String())
	}
	public, admin, _ := strings.Cut(strings.TrimSpace(line), " ")
	g.running = &running{url: "http://" + public, admin: "http://" + admin}
	g.pid = cmd.Process.Pid
	return g
}

// A host with few file descriptors serves fewer clients at a time, not fewer clients,
// and blames no replica.
func TestFewFileDescriptors(t *testing.T) {
	const clients, files = 400, 256
	var at atomic.Int64
	crowd := make(chan struct{}) // closed when so many are served at once as may be
	var replicas []string
	for range 3 {
		replicas = append(replicas, replicaBlock(serve(t, func(w http.ResponseWriter, r *http.Request) {
			if at.Add(1) == (files-64)/2 {
				close(crowd)
			}
			<-crowd
			io.WriteString(w, "ok")
		}), "", 50))
	}
	g := startAlone(t, service("m", replicas...)+"listen {\n address = \"127.0.0.1:0\"\n}\n", files)
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 2 * time.Minute}
	var wait sync.WaitGroup
	var served atomic.Int64
	for range clients {
		wait.Go(func() {
			for range 2 {
				res, err := client.Get(g.url)
				if err != nil {
					t.Error(err)
					return
				}
				if text, err := io.ReadAll(res.Body); res.StatusCode == 200 && string(text) == "ok" && err == nil {
					served.Add(1)
				}
				res.Body.Close()
			}
		})
	}
	wait.Wait()
	if n := served.Load(); n != 2*clients {
		t.Errorf("%d of %d requests were served", n, 2*clients)
	}
	for _, r := range g.state(t, "m").Replicas {
		if r.Ejected || r.Probation {
			t.Errorf("replica %s is blamed", r.ID)
		}
	}
	if text := g.log.String(); !strings.Contains(text, "limit of open files is too low") {
		t.Errorf("the log does not name the limit:\n%s", text)
	}
}

// memory is how many bytes of memory a process holds.
func memory(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("no /proc: %v", err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// raceDetector reports whether the tests run under the race detector.
var raceDetector bool

// Memory follows what clients send, not what they announce. ALIQUOT_CONNECTIONS sets how
// many there are.
func TestManyConnectionsThatSendALittle(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector takes several times the memory")
	}
	connections := 1000
	if n, err := strconv.Atoi(os.Getenv("ALIQUOT_CONNECTIONS")); err == nil {
		connections = n
	}
	const each, most = 8, 64 << 10 // sent and held for each, in bytes
	g := startAlone(t, service("m", replicaBlock(serve(t, func(w http.ResponseWriter, r *http.Request) {}), "", 1))+
		"listen {\n address = \"127.0.0.1:0\"\n body_timeout = \"10m\"\n}\n", uint64(2*connections+128))
	address := strings.TrimPrefix(g.url, "http://")
	before := memory(t, g.pid)
	var held []net.Conn
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for i := range connections {
		c, err := net.Dial("tcp", address)
		if errors.Is(err, syscall.EMFILE) {
			t.Skipf("only %d connections can be opened here: raise the limit of open files", i)
		}
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", 30<<20, strings.Repeat("x", each))
	}
	eventually(t, "all are accepted", func() bool {
		n, _ := strconv.Atoi(g.metric(t, "process_open_fds"))
		return n >= connections
	})
	after := memory(t, g.pid)
	if grown := (after - before) / int64(connections); grown > most {
		t.Errorf("%d bytes are held for each of %d connections that sent %d of a body, want at most %d", grown, connections, each, most)
	} else {
		t.Logf("%d bytes for each of %d connections", grown, connections)
	}
	// Others are still served.
	if status, text, _ := get(t, g.url); status != 200 {
		t.Errorf("%d %s", status, text)
	}
}
