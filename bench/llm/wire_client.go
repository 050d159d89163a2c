package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// tokenBytes is the text that the model server counts as one token.
const tokenBytes = 4

// text is a prompt of the request's length in which equal pages are equal text, and the
// rest is its own.
func (r *request) text() string {
	var b strings.Builder
	fill := func(word string, tokens int) {
		for n := tokens * tokenBytes; n > 0; n -= len(word) {
			b.WriteString(word[:min(n, len(word))])
		}
	}
	for _, id := range r.prefix {
		fill(fmt.Sprintf("p%014x ", id), page)
	}
	fill(fmt.Sprintf("r%014x ", r.id), r.prompt-len(r.prefix)*page)
	return b.String()
}

// playCalls sends the calls at their times, and writes into each when its first token
// and its end came, in the time of the trace. No call waits for another.
func playCalls(url string, calls []*request, speedup float64) error {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 20000, DisableCompression: true}}
	defer client.CloseIdleConnections()
	var wait sync.WaitGroup
	failed := make(chan error, len(calls))
	begin := time.Now().Add(200 * time.Millisecond)
	for _, c := range calls {
		body, err := c.body()
		if err != nil {
			return err
		}
		time.Sleep(time.Until(begin.Add(time.Duration(float64(c.at) / speedup))))
		wait.Go(func() {
			since := func(t time.Time) time.Duration { return time.Duration(float64(t.Sub(begin)) * speedup) }
			first, err := stream(client, url, body, c.output)
			c.first, c.end = since(first), since(time.Now())
			if err != nil {
				failed <- fmt.Errorf("request %d: %w", c.id, err)
			}
		})
	}
	wait.Wait()
	close(failed)
	return <-failed
}

// body is the request of a chat: its limit says nothing of the length that the answer
// will have.
func (r *request) body() ([]byte, error) {
	const limit = 8192
	return json.Marshal(map[string]any{
		"model": "stand-in", "stream": true, "max_tokens": max(limit, r.output), "min_tokens": r.output,
		"messages": []map[string]string{{"role": "user", "content": r.text()}},
	})
}

// stream sends a request and reads its answer; the time is that of its first token.
func stream(client *http.Client, url string, body []byte, output int) (first time.Time, err error) {
	res, err := client.Post(url+"/v1/chat/completions", "application/json", bytes.NewReader(body))
	if err != nil {
		return first, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 200))
		return first, fmt.Errorf("%s: %s", res.Status, text)
	}
	tokens := 0
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		// The chunk that has only the role has no content.
		if line := lines.Bytes(); bytes.HasPrefix(line, []byte("data: {")) && !bytes.Contains(line,
			[]byte(`"content":""`)) {
			if tokens++; tokens == 1 {
				first = time.Now()
			}
		}
	}
	if tokens != output {
		return first, fmt.Errorf("%d tokens, want %d", tokens, output)
	}
	return first, nil
}

func wireTable(w io.Writer, proxies []proxy, real, model []outcome) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t,
		"proxy\twithin\tsimulated\tE2E s\tsimulated\tTTFT p50 s\tsimulated\tTTFT p99 s\tsimulated\tTPOT p99 "+
			"ms\tsimulated\t")
	for i, p := range proxies {
		r, m := real[i], model[i]
		fmt.Fprintf(t, "%s\t%.1f%%\t%.1f%%\t%.2f\t%.2f\t%.2f\t%.2f\t%.1f\t%.1f\t%.0f\t%.0f\t\n", p.name, 100*r.within,
			100*m.within,
			r.e2e.Seconds(), m.e2e.Seconds(), r.ttft50.Seconds(), m.ttft50.Seconds(), r.ttft99.Seconds(),
			m.ttft99.Seconds(),
			1e3*r.tpot99.Seconds(), 1e3*m.tpot99.Seconds())
	}
	t.Flush()
	timeVerdict(w, proxies, real)
}

// timeVerdict compares the mean time per answer with that of the fastest other proxy.
func timeVerdict(w io.Writer, proxies []proxy, real []outcome) {
	const most = 0.9
	own, best := -1, -1
	for i, p := range proxies {
		switch {
		case p.name == judge:
			own = i
		case !strings.HasPrefix(p.name, "aliquot") && (best < 0 || real[i].e2e < real[best].e2e):
			best = i
		}
	}
	if own < 0 || best < 0 {
		return
	}
	ratio, word := float64(real[own].e2e)/float64(real[best].e2e), "met"
	if ratio > most {
		word = "MISSED"
	}
	fmt.Fprintf(w, "%s / %s, mean time per answer: %.3f, target at most %.2f: %s\n", judge, proxies[best].name, ratio,
		most, word)
}
