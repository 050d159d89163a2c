package socket

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// pair returns both ends of a connection.
func pair(t *testing.T) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a.(*net.TCPConn), b.(*net.TCPConn)
}

// Reads and writes of all lengths, those that the scheduler knows of among them, move what
// they are given.
func TestBytesComeAsTheyWereSent(t *testing.T) {
	for _, size := range []int{1, 200, maxQuick, maxQuick + 1, 3 << 20} {
		a, b := pair(t)
		sent := bytes.Repeat([]byte("0123456789"), size/10+1)[:size]
		go func() {
			s := Of(a)
			for rest := sent; len(rest) > 0; {
				n, err := s.Offer(rest)
				if err != nil {
					t.Errorf("%d: %v", size, err)
					return
				}
				if rest = rest[n:]; n == 0 {
					n, _ = a.Write(rest[:1]) // waits until there is room
					rest = rest[n:]
				}
			}
			a.CloseWrite()
		}()
		s, got := Of(b), []byte(nil)
		buf := make([]byte, min(size, 100_000))
		for {
			n, err := s.Read(buf)
			got = append(got, buf[:n]...)
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("of %d bytes %d came, or others", size, len(got))
		}
	}
}

// Errors are those of package net: its callers look at the operation and at what is below.
func TestErrorsAreThoseOfPackageNet(t *testing.T) {
	a, b := pair(t)
	s := Of(a)
	if n, err := s.Read(nil); n != 0 || err != nil {
		t.Errorf("reading no bytes gives %d, %v", n, err)
	}
	a.SetReadDeadline(time.Unix(1, 0))
	_, late := s.Read(make([]byte, 1))
	a.SetReadDeadline(time.Time{})
	b.SetLinger(0)
	b.Close() // resets the connection
	_, reset := s.Read(make([]byte, 1))
	_, broken := s.Offer([]byte("x"))
	a.Close()
	_, closed := s.Read(make([]byte, 1))
	_, shut := s.Offer([]byte("x"))
	for _, c := range []struct {
		got  error
		op   string
		want error
	}{
		{late, "read", os.ErrDeadlineExceeded}, {reset, "read", syscall.ECONNRESET}, {broken, "write", syscall.EPIPE},
		{closed, "read", net.ErrClosed}, {shut, "write", net.ErrClosed},
	} {
		var op *net.OpError
		if !errors.Is(c.got, c.want) || !errors.As(c.got, &op) || op.Op != c.op {
			t.Errorf("%v (%T), want a %s error that is %v", c.got, c.got, c.op, c.want)
		}
	}
	var timeout net.Error
	if !errors.As(late, &timeout) || !timeout.Timeout() {
		t.Errorf("%v is no time-out", late)
	}
}

func TestQuiet(t *testing.T) {
	a, b := pair(t)
	s := Of(a)
	if !s.Quiet() {
		t.Error("an open connection on which nothing came is not quiet")
	}
	b.Write([]byte("x"))
	await(t, s) // what Quiet reads is gone, so each byte shows once
	if !s.Quiet() {
		t.Error("not quiet after what came was read")
	}
	b.Close()
	await(t, s)
	a.Close()
	if s.Quiet() {
		t.Error("a closed connection is quiet")
	}
}

// await waits until a socket is not quiet.
func await(t *testing.T, s *Socket) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for s.Quiet() {
		if time.Now().After(deadline) {
			t.Fatal("what the other end did is not seen")
		}
	}
}
