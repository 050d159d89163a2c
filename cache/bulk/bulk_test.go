package bulk

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"aliquot.example/cache/certtest"
)

// pair makes a connection with a server's end, which writes.
func pair(t *testing.T) (c *Conn, server net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialed, err := Dial(&net.Dialer{})(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); server.Close() })
	return dialed.(*Conn), server
}

func write(t *testing.T, w io.Writer, n int) {
	t.Helper()
	if _, err := w.Write(make([]byte, n)); err != nil {
		t.Error(err)
	}
}

func read(t *testing.T, c *Conn, p []byte) int {
	t.Helper()
	n, err := c.Read(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A reader is woken for enough bytes, once the head of an answer has passed; for the next
// answer at once.
func TestReadsWaitForEnough(t *testing.T) {
	c, server := pair(t)
	c.coalesce = time.Hour
	p := make([]byte, piece)
	write(t, server, 10)
	if n := read(t, c, p); n != 10 {
		t.Errorf("the head of an answer: %d bytes", n)
	}
	const small = 8 << 10
	go func(server net.Conn) {
		for range 8 * wakeThreshold / small {
			_, _ = server.Write(make([]byte, small))
		}
	}(server)
	p = p[:wakeThreshold]
	for got := 10; got < wakeThreshold; {
		got += read(t, c, p)
	}
	for range 3 {
		// The kernel wakes it earlier where its buffer is full.
		if n := read(t, c, p); n < wakeThreshold/2 {
			t.Errorf("woken for %d bytes", n)
		}
	}
	c, server = pair(t)
	c.coalesce = time.Hour
	write(t, server, wakeThreshold)
	for got := 0; got < wakeThreshold; {
		got += read(t, c, p)
	}
	write(t, c, 1)
	write(t, server, 10)
	if n := read(t, c, p); n != 10 {
		t.Errorf("the next answer: %d bytes", n)
	}
}

// What is less than wakeThreshold is read after coalesceTime, and when the server ends.
func TestTheLastBytesAreRead(t *testing.T) {
	c, server := pair(t)
	p := make([]byte, piece)
	write(t, server, wakeThreshold)
	for got := 0; got < wakeThreshold; {
		got += read(t, c, p)
	}
	write(t, server, 10)
	if n := read(t, c, p); n != 10 {
		t.Errorf("after a gather: %d bytes", n)
	}
	c.coalesce = time.Hour
	write(t, server, wakeThreshold) // it may have paused
	for got := 0; got < wakeThreshold; {
		got += read(t, c, p)
	}
	write(t, server, 10)
	server.Close()
	if n := read(t, c, p); n != 10 {
		t.Errorf("at the end: %d bytes", n)
	}
	if n, err := c.Read(p); n != 0 || err != io.EOF {
		t.Errorf("behind the end: %d bytes, %v", n, err)
	}
}

// How long a reader gathers bounds no wait for an answer that comes after it.
func TestAnAnswerMayBeSlow(t *testing.T) {
	c, server := pair(t)
	c.coalesce = 50 * time.Millisecond
	p := make([]byte, wakeThreshold)
	go func(server net.Conn) { _, _ = server.Write(make([]byte, 3*wakeThreshold)) }(server)
	for got := 0; got < 3*wakeThreshold; {
		got += read(t, c, p)
	}
	write(t, c, 1)
	time.AfterFunc(2*c.coalesce, func() { _, _ = server.Write([]byte("ten bytes.")) })
	if n := read(t, c, p); n != 10 {
		t.Errorf("%d bytes", n)
	}
}

// A write beside a read that has the kernel wait for more does not leave its answer waiting.
func TestAWriteBesideAReadHurries(t *testing.T) {
	c, server := pair(t)
	go func(server net.Conn) { _, _ = io.Copy(io.Discard, server) }(server)
	p := make([]byte, wakeThreshold)
	for range 10_000 {
		c.prompt.Store(1)
		write(t, server, 1)
		wrote := make(chan error, 1)
		go func() {
			_, err := c.Write([]byte{0})
			wrote <- err
		}()
		read(t, c, p)
		if err := <-wrote; err != nil {
			t.Fatal(err)
		}
		least := 0
		if err := c.raw.Control(func(fd uintptr) {
			least, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT)
		}); err != nil {
			t.Fatal(err)
		}
		if c.prompt.Load() > 0 && least != 1 {
			t.Fatalf("%d bytes wake a reader that waits for an answer", least)
		}
		c.wakeAtOnce()
	}
}

// Whatever sizes are written and asked for, all bytes come in order.
func TestAllBytesCome(t *testing.T) {
	c, server := pair(t)
	c.coalesce = time.Millisecond
	want := make([]byte, 8<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(want)
	go func() {
		defer server.Close()
		for rest := want; len(rest) > 0; {
			n := min(len(rest), 1+rand.IntN(200<<10))
			if _, err := server.Write(rest[:n]); err != nil {
				t.Error(err)
				return
			}
			rest = rest[n:]
		}
	}()
	var got []byte
	for buffer := make([]byte, piece); ; {
		n, err := c.Read(buffer[:1+rand.IntN(len(buffer))])
		got = append(got, buffer[:n]...)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, or others", len(got), len(want))
	}
}

// secure makes a connection by TLS whose server is one of Listen, or of crypto/tls alone.
func secure(t testing.TB, plain bool) (c, server net.Conn) {
	t.Helper()
	ca, err := certtest.Make(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(ca.Issue(t, "cache"))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := Dial(&net.Dialer{})
	secured := Listen(l, config)
	if plain {
		dial, secured = (&net.Dialer{}).DialContext, tls.NewListener(l, config)
	}
	raw, err := dial(context.Background(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if server, err = secured.Accept(); err != nil {
		t.Fatal(err)
	}
	c = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
	t.Cleanup(func() { c.Close(); server.Close() })
	return c, server
}

// One Write is few system calls and all of its bytes, also where it is longer than what is
// held back.
func TestRecordsAreWrittenTogether(t *testing.T) {
	c, server := secure(t, false)
	calls := &counted{Conn: server.(*tlsConn).under.Conn}
	server.(*tlsConn).under.Conn = calls
	want := make([]byte, 5*piece)
	_, _ = rand.NewChaCha8([32]byte{}).Read(want)
	go func() { // the client's handshake needs the server's answer
		if _, err := server.Write(want[:1]); err != nil {
			t.Error(err)
		}
		calls.n.Store(0)
		if _, err := server.Write(want[1:]); err != nil {
			t.Error(err)
		}
		server.Close()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d of %d bytes, or others: %v", len(got), len(want), err)
	}
	// The last one ends the connection.
	if n := calls.n.Load(); n > 7 {
		t.Errorf("%d bytes are %d writes", len(want), n)
	}
}

// counted counts writes.
type counted struct {
	net.Conn
	n atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.n.Add(1)
	return c.Conn.Write(p)
}

// BenchmarkTLS moves frames of 256 KiB by TLS: with this package on both sides, and without.
func BenchmarkTLS(b *testing.B) {
	for name, plain := range map[string]bool{"bulk": false, "crypto-tls": true} {
		b.Run(name, func(b *testing.B) {
			c, server := secure(b, plain)
			frame, buffer := make([]byte, piece), make([]byte, piece)
			go func() {
				for {
					if _, err := server.Write(frame); err != nil {
						return
					}
				}
			}()
			before := cpu()
			b.SetBytes(piece)
			for b.Loop() {
				if _, err := io.ReadFull(c, buffer); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((cpu()-before).Seconds()/(float64(b.N)*piece/1e9), "cpu-s/GB")
		})
	}
}

// BenchmarkAnswers reads answers of HTTP one after the other on one connection: the end of each
// is less than what wakes a reader.
func BenchmarkAnswers(b *testing.B) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(make([]byte, 1<<20)))
	}))
	defer server.Close()
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"bulk": Dial(&net.Dialer{}), "net": (&net.Dialer{}).DialContext,
	} {
		b.Run(name, func(b *testing.B) {
			client := &http.Client{Transport: &http.Transport{DialContext: dial}}
			defer client.CloseIdleConnections()
			buffer := make([]byte, 1<<20)
			b.SetBytes(int64(len(buffer)))
			for b.Loop() {
				res, err := client.Get(server.URL)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.ReadFull(res.Body, buffer); err != nil {
					b.Fatal(err)
				}
				res.Body.Close()
			}
		})
	}
}

// cpu is what this process has used so far.
func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
