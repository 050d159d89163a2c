package gateway_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// nobody returns an address that nothing listens at.
func nobody(t *testing.T) string {
	t.Helper()
	address, _ := silent(t)
	return address
}

// silent holds an address, so that no other process gets it, at which connections are
// refused until listen is called.
func silent(t *testing.T) (address string, listen func() net.Listener) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "silent")
	t.Cleanup(func() { file.Close() })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", bound.(*unix.SockaddrInet4).Port), func() net.Listener {
		if err := unix.Listen(fd, 128); err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(file) // a duplicate
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}

// A replica that has died stays known until its check fails; all may die at once.
func TestARequestWaitsForAReplicaThatCannotBeReached(t *testing.T) {
	address, listen := silent(t)
	g := start(t, service("m", fmt.Sprintf("replica {\n address = %q\n}\nqueue {\n max_wait = \"2m\"\n eject_time = \"20ms\"\n}\n", address)))
	answers := make(chan string)
	go func() {
		res, err := http.Post(g.url, "text/plain", strings.NewReader("prompt"))
		if err != nil {
			answers <- err.Error()
			return
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		answers <- fmt.Sprint(res.StatusCode, " ", string(text), " ", err)
	}()
	// More often than what reached a replica is repeated.
	eventually(t, "five attempts", func() bool {
		n, _ := strconv.Atoi(g.metric(t, `aliquot_gateway_retries_total{service="m"}`))
		return n >= 4
	})
	replica := &httptest.Server{Listener: listen(), Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	})}}
	replica.Start()
	defer replica.Close()
	if got := <-answers; got != "200 prompt <nil>" {
		t.Errorf("%s, want the answer of the replica that came back", got)
	}
}

func TestAReplicaThatIsNeverReachedIsNamedAtTheEnd(t *testing.T) {
	for text, attempts := range map[string]int{
		"queue {\n max_wait = \"1s\"\n eject_time = \"400ms\"\n}\n": 2, // at once and after 0.4 s; the next would be after 0.8 s more
		"upstream {\n retries = 0\n}\n":                             1,
	} {
		g := start(t, service("m", fmt.Sprintf("replica {\n address = %q\n}\n", nobody(t)), text))
		status, body, header := get(t, g.url)
		if status != 502 || header.Get("X-Aliquot-Outcome") != "unreachable" || !strings.Contains(body, "no replica could be reached") {
			t.Errorf("%s: %d %s %q", text, status, header.Get("X-Aliquot-Outcome"), body)
		}
		if got := g.metric(t, `aliquot_gateway_retries_total{service="m"}`); got != fmt.Sprint(attempts-1) {
			t.Errorf("%s: %s retries, want %d", text, got, attempts-1)
		}
	}
}
