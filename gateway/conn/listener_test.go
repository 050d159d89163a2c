package conn

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func pair(t *testing.T) (server net.Conn, client net.Conn) {
	t.Helper()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Bounded(tcp, 1, time.Minute)
	t.Cleanup(func() { l.Close() })
	if client, err = net.Dial("tcp", tcp.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return server, client
}

// The socket's deadline lags behind; what Read does must not.
func TestReadDeadlinesHoldAlthoughTheyAreMovedLazily(t *testing.T) {
	server, client := pair(t)
	one := make([]byte, 1)
	read := func() (time.Duration, error) {
		began := time.Now()
		_, err := server.Read(one)
		return time.Since(began), err
	}
	in := func(ms int) time.Time { return time.Now().Add(time.Duration(ms) * time.Millisecond) }
	server.SetReadDeadline(in(50))
	server.SetReadDeadline(in(200)) // later: the socket keeps the first
	if took, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || took < 190*time.Millisecond {
		t.Errorf("a deadline that was put off: %v after %v", err, took)
	}
	server.SetReadDeadline(in(600_000))
	server.SetReadDeadline(in(50)) // earlier
	if took, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || took > time.Minute {
		t.Errorf("a deadline that was brought forward: %v after %v", err, took)
	}
	server.SetReadDeadline(in(50))
	server.SetReadDeadline(time.Time{}) // none
	time.AfterFunc(150*time.Millisecond, func() { client.Write([]byte("x")) })
	if took, err := read(); err != nil || took < 140*time.Millisecond {
		t.Errorf("no deadline: %v after %v", err, took)
	}
	time.AfterFunc(100*time.Millisecond, func() { server.SetReadDeadline(time.Unix(1, 0)) })
	if took, err := read(); !errors.Is(err, os.ErrDeadlineExceeded) || took > time.Minute {
		t.Errorf("a read that is aborted: %v after %v", err, took)
	}
	server.SetDeadline(in(50))
	server.SetDeadline(time.Time{})
	time.AfterFunc(150*time.Millisecond, func() {
		client.Write([]byte("rest"))
		client.Close()
	})
	if rest, err := io.ReadAll(server); err != nil || string(rest) != "rest" {
		t.Errorf("copied %q, %v", rest, err)
	}
}

// A byte now and then is progress but no reason to keep a slot.
func TestAClientThatDribblesIsGivenUp(t *testing.T) {
	const grace = time.Minute
	for _, c := range []struct {
		taken int64
		took  time.Duration
		want  bool
	}{
		{1, grace, false}, // it has one time of grace
		{2, 2 * grace, true},
		{Slowest*60 - 1, 2 * grace, true},
		{Slowest * 60, 2 * grace, false},
		{Slowest * 600, 2 * grace, false},
		{Slowest * 600, 20 * grace, true},
	} {
		if got := dribbles(c.taken, c.took, grace); got != c.want {
			t.Errorf("%d bytes in %v: %v, want %v", c.taken, c.took, got, c.want)
		}
	}
}
