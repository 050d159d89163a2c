package gateways

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"
)

// stutters are the durations for which an owner is repeatedly stopped, as by memory pressure or
// other processes: shorter and longer than its lease.
var stutters = []time.Duration{300 * time.Millisecond, 750 * time.Millisecond, 900 * time.Millisecond}

// An owner that is stopped and continued many times a minute loses no request and grants no slot
// twice, whether or not it remains the owner.
func TestStutteringOwner(t *testing.T) {
	ctx, f := fleet(t, Options{}, 4, 2)
	l := f.Load(6, served)
	l.goOn(ctx, t, 10, f.Gateways)
	for range rounds {
		for _, still := range stutters {
			owner := f.owner(ctx, t)
			for range 5 {
				at := time.Now()
				owner.Hang()
				lastsFor(ctx, still, at)
				owner.Continue()
				l.goOn(ctx, t, 1, f.Gateways)
			}
			f.owner(ctx, t)
			f.reset()
			f.full(ctx, t)
		}
	}
	f.verdict(t, l)
}

// crowd is the number of clients that leave each gateway at the same time.
var crowd = 500

// Many clients that wait at all gateways leave at the same time. Nothing of them remains.
func TestManyClientsLeave(t *testing.T) {
	if rounds > 1 {
		crowd = 5000
	}
	ctx, f := fleet(t, Options{}, 1)
	held, leave := context.WithCancel(ctx)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	var wait sync.WaitGroup
	all := crowd * len(f.Gateways)
	for i := range all {
		wait.Go(func() {
			if err := f.Gateways[i%len(f.Gateways)].Ask(held, client, "", time.Hour, nil); held.Err() == nil {
				t.Errorf("a request did not wait: %v", err)
			}
		})
	}
	counted := func(want int) {
		t.Helper()
		err := Await(ctx, fmt.Sprintf("%d requests", want), func() string {
			n := 0
			for _, g := range f.Gateways {
				s, err := g.State(ctx)
				if err != nil {
					return err.Error()
				}
				n += s.Queued
				for _, active := range s.Active {
					n += active
				}
			}
			if n != want {
				return fmt.Sprint(n)
			}
			return ""
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	counted(all)
	at := time.Now()
	leave()
	wait.Wait()
	counted(0)
	for _, g := range f.Gateways {
		if err := g.Ask(ctx, client, "", 0, nil); err != nil {
			t.Errorf("gateway %d afterwards: %v", g.Index, err)
		}
	}
	t.Logf("%d clients left, and another request was served at each gateway, within %v", all, time.Since(at).Round(time.Millisecond))
	f.owner(ctx, t)
	f.reset()
	l := f.Load(2, served)
	f.full(ctx, t)
	f.verdict(t, l)
}

// latency is the response time of a slow Consul.
const latency = 5 * time.Second

// Every answer of Consul takes 5 s. The gateways agree on an owner, continue when it is killed, and
// agree on the next one.
func TestSlowConsul(t *testing.T) {
	if rounds == 1 {
		t.Skip("takes a minute: make soak-gateways")
	}
	waitFor = 3 * time.Minute
	t.Cleanup(func() { waitFor = time.Minute })
	ctx, f := fleet(t, Options{Between: slow}, 4, 2)
	l := f.Load(6, served)
	l.goOn(ctx, t, 10, f.Gateways)
	owner := f.owner(ctx, t)
	at := time.Now()
	owner.Kill()
	l.goOn(ctx, t, 10, f.Live())
	t.Logf("after the owner's end both others have served 10 requests in %v", time.Since(at).Round(time.Millisecond))
	f.owner(ctx, t)
	t.Logf("the next owner is found after %v", time.Since(at).Round(time.Millisecond))
	if err := owner.Start(ctx); err != nil {
		t.Fatal(err)
	}
	f.owner(ctx, t)
	f.reset()
	f.full(ctx, t)
	f.verdict(t, l)
}

// slow starts a proxy in front of Consul that delays every request by latency, and returns its
// address.
func slow(consul string) (address string, end func(), err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: consul})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(latency):
			forward.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})}
	go server.Serve(listener)
	return listener.Addr().String(), func() { server.Close() }, nil
}
