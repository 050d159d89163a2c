package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// traced is one request of a recorded trace.
type traced struct {
	at         time.Duration
	prompt     int // tokens
	completion int // tokens
}

func readTrace(path string) ([]traced, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []traced
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), ",")
		at, err := strconv.ParseFloat(fields[0], 64)
		if err != nil || len(fields) != 3 {
			continue // a comment or the heading
		}
		prompt, _ := strconv.Atoi(fields[1])
		completion, _ := strconv.Atoi(fields[2])
		out = append(out, traced{time.Duration(at * float64(time.Second)), prompt, max(1, completion)})
	}
	return out, nil
}

// streamer is a replica that streams one event per token. At speed 1, it takes 0.1 ms for each
// token of the prompt and then 20 ms for each token of the completion. It checks the limit of its
// own slots.
type streamer struct {
	address         string
	slots           int64
	speed           float64
	active, over    atomic.Int64
	served          *sync.Map // request IDs that were served
	twice, finished atomic.Int64
}

func (s *streamer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.active.Add(1) > s.slots {
		s.over.Add(1)
	}
	if _, before := s.served.LoadOrStore(r.Header.Get("X-Id"), true); before {
		s.twice.Add(1)
	}
	prompt, _ := strconv.Atoi(r.Header.Get("X-Prompt-Tokens"))
	completion, _ := strconv.Atoi(r.Header.Get("X-Completion"))
	w.Header().Set("Content-Type", "text/event-stream")
	pace := func(d time.Duration) { time.Sleep(time.Duration(float64(d) / s.speed)) }
	pace(time.Duration(prompt) * 100 * time.Microsecond)
	for i := range completion {
		pace(20 * time.Millisecond)
		if i == completion-1 {
			// Release the slot before the client can know that it is free.
			s.active.Add(-1)
			s.finished.Add(1)
		}
		fmt.Fprintf(w, "data: %d\n\n", i)
		w.(http.Flusher).Flush()
	}
}

// replay plays a recorded trace against replicas of unequal speed, with streamed answers, and
// counts requests that were lost, served twice or above a replica's slots.
func replay(ctx context.Context, gateway, path string, speed float64) error {
	trace, err := readTrace(path)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(os.Stderr, "replay skipped: no trace at %s\n", path)
		return nil
	}
	if err != nil {
		return err
	}
	fleet, served, err := streamers(speed)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "aliquot-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	listen, err := freeAddress()
	if err != nil {
		return err
	}
	command, err := streamConfig(gateway, dir, listen, fleet)
	if err != nil {
		return err
	}
	p, err := launch(ctx, command, listen)
	if err != nil {
		return err
	}
	defer p.end()
	failed, first, total := playTrace(p.url, trace, speed)
	var over, twice, finished int64
	for _, s := range fleet {
		over, twice, finished = over+s.over.Load(), twice+s.twice.Load(), finished+s.finished.Load()
	}
	distinct := 0
	served.Range(func(any, any) bool { distinct++; return true })
	ft, tt := summarise(first), summarise(total)
	fmt.Printf("\nreplay of %d requests at %gx, 6 replicas of 3 speeds, 2 slots each\n\n", len(trace), speed)
	fmt.Printf("| lost | served twice | over a replica's slots | served | first event p50 / p99 | " +
		"whole p50 / p99 |\n|---|---|---|---|---|---|\n")
	fmt.Printf("| %d | %d | %d | %d of %d | %.2f / %.2f s | %.2f / %.2f s |\n(times as the recorded hour would have "+
		"seen them)\n", failed, twice, over, finished, distinct,
		ft.p50.Seconds()*speed, ft.p99.Seconds()*speed, tt.p50.Seconds()*speed, tt.p99.Seconds()*speed)
	if failed > 0 || twice > 0 || over > 0 || distinct != len(trace) || finished != int64(len(trace)) {
		return fmt.Errorf("%d lost, %d served twice, %d times over a limit, %d of %d served", failed, twice, over,
			distinct, len(trace))
	}
	return nil
}

func streamers(speed float64) ([]*streamer, *sync.Map, error) {
	var out []*streamer
	served := &sync.Map{}
	for _, factor := range []float64{1, 1, 0.5, 0.5, 0.25, 0.25} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, nil, err
		}
		s := &streamer{address: l.Addr().String(), slots: 2, speed: factor * speed, served: served}
		go http.Serve(l, s)
		out = append(out, s)
	}
	return out, served, nil
}

func streamConfig(gateway, dir, listen string, fleet []*streamer) ([]string, error) {
	var b strings.Builder
	fmt.Fprintf(&b,
		"access_log = \"off\"\nlisten {\n  address = %q\n}\nadmin {\n  address = \"127.0.0.1:0\"\n}\ndrain {\n  "+
			"delay = \"0s\"\n}\nservice \"trace\" {\n  queue {\n    max_wait = \"10m\"\n  }\n", listen)
	for _, s := range fleet {
		fmt.Fprintf(&b,
			"  replica {\n    address = %q\n    class   = \"c%.0f\"\n    slots   = %d\n    weight  = %f\n  }\n",
			s.address, s.speed, s.slots, s.speed)
	}
	b.WriteString("}\n")
	path, err := write(dir, "gateway.hcl", b.String())
	return []string{gateway, "gateway", "-config", path}, err
}

func playTrace(url string, trace []traced, speed float64) (failed int64, first, total []time.Duration) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096}}
	defer client.CloseIdleConnections()
	first, total = make([]time.Duration, len(trace)), make([]time.Duration, len(trace))
	var lost atomic.Int64
	var wait sync.WaitGroup
	begin := time.Now().Add(100 * time.Millisecond)
	for i, r := range trace {
		due := begin.Add(time.Duration(float64(r.at) / speed))
		time.Sleep(time.Until(due))
		wait.Go(func() {
			at, err := stream(client, url, i, r)
			if err != nil {
				lost.Add(1)
				fmt.Fprintln(os.Stderr, "request", i, err)
			}
			first[i], total[i] = at.Sub(due), time.Since(due)
		})
	}
	wait.Wait()
	return lost.Load(), first, total
}

// stream sends one request, checks every event and returns the time of the first.
func stream(client *http.Client, url string, id int, r traced) (time.Time, error) {
	q, err := http.NewRequest(http.MethodPost, url, nil)
	if err != nil {
		return time.Now(), err
	}
	q.Header.Set("X-Id", strconv.Itoa(id))
	q.Header.Set("X-Prompt-Tokens", strconv.Itoa(r.prompt))
	q.Header.Set("X-Completion", strconv.Itoa(r.completion))
	res, err := client.Do(q)
	if err != nil {
		return time.Now(), err
	}
	defer res.Body.Close()
	first := time.Now()
	if res.StatusCode != 200 {
		return first, fmt.Errorf("status %s", res.Status)
	}
	in := bufio.NewReader(res.Body)
	for i := range r.completion {
		line, err := in.ReadString('\n')
		if err != nil || line != fmt.Sprintf("data: %d\n", i) {
			return first, fmt.Errorf("event %d is %q, %v", i, line, err)
		}
		if i == 0 {
			first = time.Now()
		}
		in.ReadString('\n')
	}
	_, err = in.ReadByte()
	if err != io.EOF {
		return first, fmt.Errorf("more than the last event: %v", err)
	}
	return first, nil
}
