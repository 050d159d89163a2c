package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// workHeader carries the work of a call as a multiple of the mean.
const workHeader = "X-Work"

// replica is a server with one slot. Further requests wait in order of arrival, as in a model
// server.
type replica struct {
	mean    time.Duration
	address string
	slot    chan struct{}
	alarm   *alarm // used by the request that holds the slot
	active  atomic.Int64
	most    atomic.Int64 // the most requests at once so far
	server  *http.Server
}

func newReplica(mean time.Duration) (*replica, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a, err := newAlarm()
	if err != nil {
		return nil, err
	}
	r := &replica{mean: mean, address: l.Addr().String(), slot: make(chan struct{}, 1), alarm: a}
	r.server = &http.Server{Handler: r}
	go r.server.Serve(l)
	return r, nil
}

func (r *replica) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	for n := r.active.Add(1); ; {
		most := r.most.Load()
		if n <= most || r.most.CompareAndSwap(most, n) {
			break
		}
	}
	work, err := strconv.ParseFloat(q.Header.Get(workHeader), 64)
	if err != nil {
		r.active.Add(-1)
		http.Error(w, "no work", http.StatusBadRequest)
		return
	}
	r.slot <- struct{}{}
	r.alarm.sleep(time.Duration(work * float64(r.mean)))
	<-r.slot
	r.active.Add(-1)
	fmt.Fprint(w, "done")
}

// start starts the replicas of a fleet.
func (f fleet) start() ([]*replica, error) {
	var out []*replica
	for _, mean := range f {
		r, err := newReplica(mean)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// play sends the calls to url at their times and returns the latency of each, from the time at
// which it was due. It never waits for an answer before the next call, so that a slow contestant
// cannot slow its own load.
func play(url string, calls []call, begin time.Time) ([]time.Duration, error) {
	clock, err := newAlarm()
	if err != nil {
		return nil, err
	}
	defer clock.file.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096}}
	defer client.CloseIdleConnections()
	latency := make([]time.Duration, len(calls))
	var wait sync.WaitGroup
	var failed atomic.Pointer[error]
	for i, c := range calls {
		due := begin.Add(c.at)
		clock.sleep(time.Until(due))
		wait.Go(func() {
			if err := send(client, url, c.work); err != nil {
				failed.CompareAndSwap(nil, &err)
			}
			latency[i] = time.Since(due)
		})
	}
	wait.Wait()
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	return latency, nil
}

func send(client *http.Client, url string, work float64) error {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Header.Set(workHeader, strconv.FormatFloat(work, 'g', 6, 64))
	res, err := client.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 200))
	if err != nil || res.StatusCode != 200 || string(body) != "done" {
		return fmt.Errorf("%s answered %s %q, %v", url, res.Status, body, err)
	}
	return nil
}
