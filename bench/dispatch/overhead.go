package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// serveRole is this program as a process of the overhead measurement: "backend"
// or "plain", which wants the address to listen at and, for plain, the backend's.
func serveRole(role string, args []string) error {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	if role == "backend" {
		return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "done") }))
	}
	target := &url.URL{Scheme: "http", Host: args[1]}
	return http.Serve(l, &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host
			p.SetXForwarded()
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 4096, DisableCompression: true},
		BufferPool: &buffers{},
	})
}

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if v, ok := b.pool.Get().(*[32 << 10]byte); ok {
		return v[:]
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put((*[32 << 10]byte)(p)) }

// route is one way to the backend of the overhead measurement.
type route struct {
	name    string
	process *process
	p50     []time.Duration // at one connection, a figure per round
	rps     []float64       // at 64 connections
}

const rounds = 7

// overhead measures what a proxy adds, in rounds that take turns between the
// ways, so that a busy moment of the machine meets all alike.
func overhead(ctx context.Context, gateway string) error {
	dir, err := os.MkdirTemp("", "aliquot-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	routes, err := layRoutes(ctx, gateway, dir)
	defer func() {
		for _, r := range routes {
			r.process.end()
		}
	}()
	if err != nil {
		return err
	}
	for round := range rounds + 1 {
		for _, r := range routes {
			one, err := closedLoop(r.process.url, 1, 1500*time.Millisecond)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			many, err := closedLoop(r.process.url, 64, 2*time.Second)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			if round > 0 { // the first is to warm up
				r.p50 = append(r.p50, summarise(one).p50)
				r.rps = append(r.rps, float64(len(many))/2)
			}
		}
	}
	compare(routes)
	return nil
}

// compare prints each way, and the gateway's as ratios to the others.
func compare(routes []*route) {
	direct, plain, own, haproxy := routes[0], routes[1], routes[2], routes[3]
	added := func(r *route) float64 { return us(median(r.p50) - median(direct.p50)) }
	fmt.Printf("\noverhead, medians of %d rounds; %s\n\n| way | p50 at 1 connection | added | req/s at 64 |\n|---|---|---|---|\n", rounds, versions())
	for _, r := range routes {
		fmt.Printf("| %s | %.1f us | %.1f us | %.0f |\n", r.name, us(median(r.p50)), added(r), median(r.rps))
	}
	fmt.Printf("\n| %s, as a multiple of | p50 at 1 | added p50 | req/s at 64 |\n|---|---|---|---|\n", own.name)
	fmt.Printf("| %s | %.2f | | %.2f |\n", direct.name, us(median(own.p50))/us(median(direct.p50)), median(own.rps)/median(direct.rps))
	for _, r := range []*route{haproxy, plain} {
		fmt.Printf("| %s | %.2f | %.2f | %.2f |\n", r.name, us(median(own.p50))/us(median(r.p50)), added(own)/added(r), median(own.rps)/median(r.rps))
	}
	verdict := "met"
	if added(own) > 1.1*added(plain) || median(own.rps)*1.1 < median(plain.rps) {
		verdict = "MISSED"
	}
	fmt.Printf("within 10%% of the plain proxy: %s\n", verdict)
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func median[T ~int64 | ~float64](v []T) T {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

func layRoutes(ctx context.Context, gateway, dir string) ([]*route, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var routes []*route
	add := func(name string, command func(listen string) ([]string, error)) error {
		listen, err := freeAddress()
		if err != nil {
			return err
		}
		line, err := command(listen)
		if err != nil {
			return err
		}
		p, err := launch(ctx, line, listen)
		if err == nil {
			routes = append(routes, &route{name: name, process: p})
		}
		return err
	}
	var backend string
	f := fleet{25 * time.Millisecond}
	for _, step := range []struct {
		name    string
		command func(listen string) ([]string, error)
	}{
		{"direct", func(listen string) ([]string, error) {
			backend = listen
			return []string{self, "-serve", "backend", listen}, nil
		}},
		{"plain Go ReverseProxy, tuned", func(listen string) ([]string, error) {
			return []string{self, "-serve", "plain", listen, backend}, nil
		}},
		{"aliquot gateway", func(listen string) ([]string, error) {
			return gatewayCommand(gateway, dir, listen, f, []string{backend}, 1024)
		}},
		{"HAProxy", func(listen string) ([]string, error) {
			return haproxyCommand(dir, listen, f, []string{backend}, "leastconn", "")
		}},
	} {
		if err := add(step.name, step.command); err != nil {
			return routes, err
		}
	}
	return routes, nil
}

// closedLoop asks again and again on each of n connections, and returns the
// latency of every answer. The client is written by hand, so that the measurement
// is of the proxy and not of a client library.
func closedLoop(url string, n int, length time.Duration) ([]time.Duration, error) {
	host := strings.TrimPrefix(url, "http://")
	all := make([][]time.Duration, n)
	errs := make([]error, n)
	var wait sync.WaitGroup
	end := time.Now().Add(length)
	for i := range n {
		wait.Go(func() { all[i], errs[i] = loop(host, end) })
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return slices.Concat(all...), nil
}

func loop(host string, end time.Time) ([]time.Duration, error) {
	c, err := net.Dial("tcp", host)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	request := []byte("GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: bench\r\n\r\n")
	in := bufio.NewReader(c)
	var latency []time.Duration
	for {
		began := time.Now()
		if began.After(end) {
			return latency, nil
		}
		if _, err := c.Write(request); err != nil {
			return nil, err
		}
		if err := readAnswer(in); err != nil {
			return nil, err
		}
		latency = append(latency, time.Since(began))
	}
}

// readAnswer reads a 200 whose body is "done".
func readAnswer(in *bufio.Reader) error {
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !strings.HasPrefix(string(line), "HTTP/1.1 200") {
			return fmt.Errorf("answer begins %q", line)
		}
		if len(line) <= 2 {
			break
		}
	}
	body := make([]byte, 4)
	if _, err := io.ReadFull(in, body); err != nil || string(body) != "done" {
		return fmt.Errorf("body %q, %v", body, err)
	}
	return nil
}
