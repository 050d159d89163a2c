package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"aliquot.example/e2e/cluster"
)

// scaleDownTimeout is how long the services may take to scale to zero after the last answer. It covers the
// strategy's delays and stopping a container on a slow machine.
const scaleDownTimeout = 90 * time.Second

// checkError is the error of a run that played everything and failed checks.
type checkError struct{ error }

func (e checkError) Error() string { return "checks failed:\n" + e.error.Error() }

// play replays the workload, prints a summary, and fails if a check fails.
func play(ctx context.Context, s *stage, calls []call, what string) error {
	w, r := newWatch(s.Cluster), newReplay(s.gateway, calls)
	v := newView(os.Stdout, s, w, r, what)
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	v.begin()
	go func() {
		defer close(watched)
		w.run(watching, v.show)
	}()
	r.run(ctx)
	ended := time.Now()
	out := summary{calls: len(calls), results: r.ended(), watch: w, began: r.started, image: s.Image, toZero: -1}
	var err error
	if ctx.Err() == nil {
		if cluster.AwaitWithin(ctx, scaleDownTimeout, "zero replicas", w.idle) == nil {
			out.toZero = time.Since(ended)
		}
		out.served, out.others, err = served(s.admin)
		out.starts = out.fromZero(ctx, s.Cluster)
	}
	if out.toZero >= 0 {
		more, failed := startAgain(ctx, s.Cluster, r)
		out.starts, err = append(out.starts, more...), errors.Join(err, failed)
	}
	stop()
	<-watched
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	out.print(os.Stdout)
	var problems []error
	for _, problem := range out.verdict() {
		problems = append(problems, errors.New(problem))
	}
	if err := errors.Join(append(problems, err)...); err != nil {
		return checkError{err}
	}
	fmt.Println("\nAll checks passed.")
	return nil
}

// served returns how many requests the gateway has served: those of the replay, and all others.
func served(admin string) (replayed, others int, err error) {
	response, err := http.Get(admin + "/metrics")
	if err != nil {
		return 0, 0, err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "} ")
		if !strings.HasPrefix(name, "aliquot_gateway_tenant_requests_total{") ||
			!strings.Contains(name, `outcome="served"`) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, 0, err
		}
		if strings.Contains(name, `tenant="`+replayTenant+`"`) {
			replayed += int(n)
		} else {
			others += int(n)
		}
	}
	return replayed, others, lines.Err()
}
