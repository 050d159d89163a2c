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

// serveRole runs this program as a helper process: "busy" only computes, "backend" and "plain"
// belong to the overhead measurement. These two take the address to listen on and, for "plain", the
// backend's.
func serveRole(role string, args []string) error {
	if role == "busy" {
		compute()
	}
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	if role == "backend" {
		return http.Serve(l, backend{newMetronome(eventInterval)})
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

// overhead measures what a proxy adds. The routes take turns in each round, so that load from other
// programs affects all alike.
func overhead(ctx context.Context, gateway string, rounds int) error {
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
			if err := r.measure(round > 0); err != nil { // the first round is a warm-up
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	compare(routes, rounds)
	return nil
}

// measure runs one round of a route.
func (r *route) measure(counts bool) error {
	one, err := closedLoop(r.process.url, 1, time.Second)
	if err != nil {
		return err
	}
	many, err := r.spent(func() (int64, error) {
		all, err := closedLoop(r.process.url, streams, 2*time.Second)
		return int64(len(all)), err
	})
	if err != nil {
		return err
	}
	paced, err := r.spent(func() (int64, error) { return r.stream(true, counts) })
	if err != nil {
		return err
	}
	flood, err := r.spent(func() (int64, error) { return r.stream(false, counts) })
	if err != nil || !counts {
		return err
	}
	r.p50 = append(r.p50, summarise(one).p50)
	r.many, r.paced, r.flood = append(r.many, many), append(r.paced, paced), append(r.flood, flood)
	return nil
}

func (r *route) stream(paced, counts bool) (int64, error) {
	came, broken, err := streamLoop(r.process.url, streams, paced, time.Second)
	if counts {
		r.broken += broken
	}
	return came, err
}

// spent runs do, which returns a count, and returns its rate and the route's CPU time per unit.
func (r *route) spent(do func() (int64, error)) (cost, error) {
	began, before := time.Now(), r.process.cpu()
	n, err := do()
	if err != nil || n == 0 {
		return cost{}, err
	}
	c := cost{rate: float64(n) / time.Since(began).Seconds()}
	if r.name != "direct" {
		c.cpu = (r.process.cpu() - before) / time.Duration(n)
	}
	return c, nil
}

// typical holds the medians of a route.
type typical struct {
	p50                time.Duration
	many, paced, flood cost
}

func (r *route) typical() typical {
	mid := func(all []cost) cost {
		var rates []float64
		var cpus []time.Duration
		for _, c := range all {
			rates, cpus = append(rates, c.rate), append(cpus, c.cpu)
		}
		return cost{median(rates), median(cpus)}
	}
	return typical{median(r.p50), mid(r.many), mid(r.paced), mid(r.flood)}
}

// compare prints each route, and the gateway's results as ratios to the others.
func compare(routes []*route, rounds int) {
	load, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("\noverhead, medians of %d rounds; %s; load averages %s", rounds, versions(), load)
	fmt.Print("\n| way | p50 at 1 connection | added | req/s at 64 | CPU per request | CPU per event, paced | " +
		"events/s and core | events/s, flooded | CPU per event | streams broken " +
		"|\n|---|---|---|---|---|---|---|---|---|---|\n")
	direct := routes[0].typical()
	for _, r := range routes {
		t := r.typical()
		perCore := ""
		if t.paced.cpu > 0 {
			perCore = fmt.Sprintf("%.0f", 1/t.paced.cpu.Seconds())
		}
		fmt.Printf("| %s | %.1f us | %.1f us | %.0f | %.1f us | %.1f us | %s | %.0f | %.1f us | %d |\n", r.name,
			us(t.p50), us(t.p50-direct.p50),
			t.many.rate, us(t.many.cpu), us(t.paced.cpu), perCore, t.flood.rate, us(t.flood.cpu), r.broken)
	}
	for _, own := range routes {
		if strings.HasPrefix(own.name, gatewayName) {
			own.ratios(routes)
		}
	}
}

// ratios prints the results of a gateway's route as multiples of its peers, and whether it meets
// its targets.
func (r *route) ratios(routes []*route) {
	own, direct, haproxy := r.typical(), routes[0].typical(), typical{}
	fmt.Printf("\n| %s, as a multiple of | added p50 | req/s at 64 | CPU per request | CPU per event, paced | "+
		"events/s, flooded |\n|---|---|---|---|---|---|\n", r.name)
	for _, peer := range routes[1:] {
		if strings.HasPrefix(peer.name, gatewayName) {
			continue
		}
		t := peer.typical()
		fmt.Printf("| %s | %.2f | %.2f | %.2f | %.2f | %.2f |\n", peer.name,
			us(own.p50-direct.p50)/us(t.p50-direct.p50),
			own.many.rate/t.many.rate, us(own.many.cpu)/us(t.many.cpu), us(own.paced.cpu)/us(t.paced.cpu),
			own.flood.rate/t.flood.rate)
		if peer.name == haproxyName {
			haproxy = t
		}
	}
	aim := func(what string, got, limit float64) {
		verdict := "met"
		if got < limit {
			verdict = "MISSED"
		}
		fmt.Printf("%s: %.2f, target at least %.2f: %s\n", what, got, limit, verdict)
	}
	fmt.Println()
	aim("req/s of direct", own.many.rate/direct.many.rate, 0.40)
	aim("req/s of HAProxy's", own.many.rate/haproxy.many.rate, 0.75)
	aim("events/s of HAProxy's", own.flood.rate/haproxy.flood.rate, 0.8)
	aim("HAProxy's added p50 of the gateway's", us(haproxy.p50-direct.p50)/us(own.p50-direct.p50), 1/1.3)
}

func us(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

func median[T ~int64 | ~float64](v []T) T {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

// closedLoop sends requests one after another on each of n connections and returns all latencies.
// It does not use a client library, so that it measures the proxy only.
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

// readAnswer reads a 200 response whose body is "done".
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
