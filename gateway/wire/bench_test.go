package wire

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// BenchmarkExchange compares an exchange with net/http's transport, including the replica's part.
func BenchmarkExchange(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	request := "GET / HTTP/1.1\r\nHost: "
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for n, _ := c.Read(buf); n > len(request); n, _ = c.Read(buf) {
					io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\ndone")
				}
			}()
		}
	}()
	own := &Transport{Dial: new(net.Dialer).DialContext, IdleTimeout: time.Minute, MaxHeaderBytes: 1 << 20}
	other := &http.Transport{MaxIdleConnsPerHost: 4096, DisableCompression: true}
	for _, way := range []struct {
		name string
		http.RoundTripper
	}{{"wire", own}, {"net-http", other}} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 64)
			for b.Loop() {
				q, _ := http.NewRequestWithContext(b.Context(), http.MethodGet, "http://"+l.Addr().String()+"/", nil)
				res, err := way.RoundTrip(q)
				if err != nil {
					b.Fatal(err)
				}
				for err == nil {
					_, err = res.Body.Read(buf)
				}
				res.Body.Close()
			}
		})
	}
	own.CloseIdleConnections()
	other.CloseIdleConnections()
}
