package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A server that is asked to stop completes the answers that it has begun.
func TestAStopCompletesAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	args := os.Args
	defer func() { os.Args = args }()
	os.Args = []string{"modelserver", "-engine", "h100", "-listen", address, "-drain", "1m"}
	ended := make(chan error, 1)
	go func() { ended <- run("modelserver") }()
	for ready := false; !ready; {
		select {
		case err := <-ended:
			t.Fatalf("the server ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		if res, err := http.Get("http://" + address + "/health"); err == nil {
			res.Body.Close()
			ready = res.StatusCode == http.StatusOK
		}
	}
	const tokens = 200
	body := fmt.Sprintf(`{"model":"m","prompt":"hello","max_tokens":%d,"ignore_eos":true,"stream":true}`, tokens)
	res, err := http.Post("http://"+address+"/v1/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer := bufio.NewReader(res.Body)
	if _, err := answer.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(answer)
	if err != nil || !strings.Contains(string(rest), "[DONE]") {
		t.Errorf("%d bytes after the stop, %v", len(rest), err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
