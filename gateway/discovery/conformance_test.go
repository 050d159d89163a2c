package discovery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/discovery"
	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/gpu"
)

// origin is where a source finds replicas: publish says which there are, and fail has
// it not answer until something is published again. Both are nil where that cannot be.
type origin struct {
	watcher  discovery.Watcher
	publish  func([]config.Replica)
	fail     func()
	warnings *warnings
}

// warnings counts what a source logs.
type warnings struct{ atomic.Int64 }

func (w *warnings) Write(p []byte) (int, error) {
	w.Add(1)
	return len(p), nil
}

func (w *warnings) log() *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// board is a server of one list, which clients wait for by its index, as Consul and
// Nomad serve theirs.
type board struct {
	header string // of the index
	encode func(config.Replica) any

	mu      sync.Mutex
	index   uint64
	entries []any
	down    bool
	changed chan struct{}
}

func newBoard(t *testing.T, header string, encode func(config.Replica) any) (*board, string) {
	b := &board{header: header, encode: encode, index: 1, changed: make(chan struct{})}
	s := httptest.NewServer(b)
	t.Cleanup(s.Close)
	return b, s.URL
}

func (b *board) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	seen, _ := strconv.ParseUint(r.FormValue("index"), 10, 64)
	b.mu.Lock()
	for b.index <= seen && !b.down {
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	if b.down {
		http.Error(w, "no leader", http.StatusInternalServerError)
		return
	}
	w.Header().Set(b.header, fmt.Sprint(b.index))
	json.NewEncoder(w).Encode(b.entries)
}

func (b *board) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *board) publish(replicas []config.Replica) {
	entries := []any{}
	for _, r := range replicas {
		entries = append(entries, b.encode(r))
	}
	b.change(func() { b.index, b.entries, b.down = b.index+1, entries, false })
}

func (b *board) fail() { b.change(func() { b.down = true }) }

// described is what a replica says of itself by keys.
func described(r config.Replica) map[string]string {
	out := map[string]string{
		gpu.MetaClass: r.Class, gpu.MetaSlices: fmt.Sprint(r.Slices), gpu.MetaSlots: fmt.Sprint(r.Slots),
		gpu.MetaKVTokens: fmt.Sprint(r.KVTokens), gpu.MetaMaxPrompt: fmt.Sprint(r.MaxPrompt), gpu.MetaWeight: fmt.Sprint(r.Weight),
	}
	for key, value := range out {
		if value == "0" || value == "" {
			delete(out, key) // unset
		}
	}
	return out
}

func split(address string) (host string, port int) {
	host, text, _ := net.SplitHostPort(address)
	port, _ = strconv.Atoi(text)
	return host, port
}

// origins are the four sources, each of which begins with these replicas.
func origins(t *testing.T, first []config.Replica) map[string]origin {
	out := map[string]origin{"configuration": {watcher: discovery.Static(first)}}

	var said [3]warnings
	path := filepath.Join(t.TempDir(), "replicas.hcl")
	write := func(text string) {
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Error(err)
		}
	}
	out["file"] = origin{
		watcher: discovery.File{Path: path, Log: said[0].log()},
		publish: func(replicas []config.Replica) {
			var text strings.Builder
			for _, r := range replicas {
				fmt.Fprintf(&text, "replica {\n address = %q\n class = %q\n", r.Address, r.Class)
				for key, n := range map[string]int{"slices": r.Slices, "slots": r.Slots, "kv_tokens": r.KVTokens, "max_model_len": r.MaxPrompt} {
					if n != 0 {
						fmt.Fprintf(&text, " %s = %d\n", key, n)
					}
				}
				if r.Weight != 0 {
					fmt.Fprintf(&text, " weight = %v\n", r.Weight)
				}
				text.WriteString("}\n")
			}
			write(text.String())
		},
		fail: func() { write("replica {") }, warnings: &said[0],
	}

	inConsul, address := newBoard(t, "X-Consul-Index", func(r config.Replica) any {
		host, port := split(r.Address)
		return map[string]any{
			"Node":    map[string]any{"Node": "n", "Address": "192.0.2.1"},
			"Service": map[string]any{"ID": "m", "Service": "m", "Address": host, "Port": port, "Meta": described(r)},
		}
	})
	client, err := consul.NewClient(&consul.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	out["Consul"] = origin{
		watcher: discovery.Consul{Health: client.Health(), Source: config.ConsulSource{Service: "m"}, Log: said[1].log()},
		publish: inConsul.publish, fail: inConsul.fail, warnings: &said[1],
	}

	inNomad, address := newBoard(t, "X-Nomad-Index", func(r config.Replica) any {
		host, port := split(r.Address)
		tags := []string{"prod"}
		for key, value := range described(r) {
			tags = append(tags, key+"="+value)
		}
		return map[string]any{"ID": "m", "ServiceName": "m", "Address": host, "Port": port, "Tags": tags}
	})
	jobs, err := nomad.NewClient(&nomad.Config{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	out["Nomad"] = origin{
		watcher: discovery.Nomad{Services: jobs.Services(), Source: config.NomadSource{Service: "m"}, Log: said[2].log()},
		publish: inNomad.publish, fail: inNomad.fail, warnings: &said[2],
	}
	for _, o := range out {
		if o.publish != nil {
			o.publish(first)
		}
	}
	return out
}

// watched are the replicas that a source reported last.
type watched struct {
	mu   sync.Mutex
	last []line.Replica
	sets int
}

func (w *watched) set(replicas []line.Replica) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last, w.sets = slices.Clone(replicas), w.sets+1
}

func (w *watched) get() ([]line.Replica, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last, w.sets
}

func (w *watched) await(t *testing.T, what string, addresses ...string) []line.Replica {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(60 * time.Second)
	for {
		last, _ := w.get()
		var got []string
		for _, r := range last {
			got = append(got, r.Address)
		}
		if slices.Equal(got, addresses) {
			return last
		}
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: %v, want %v", what, got, addresses)
		}
	}
}

// Whatever a service's replicas are found in, the gateway sees the same of them.
func TestSourcesConform(t *testing.T) {
	plain := config.Replica{Address: "10.0.0.1:80"}
	full := config.Replica{Address: "[2001:db8::1]:8000", Class: "h100", Slices: 5, Slots: 4, Weight: 0.25, KVTokens: 450_000, MaxPrompt: 32_768}
	heavy := config.Replica{Address: "10.0.0.3:80", Class: "l4", Slots: 2, Weight: 0.5}
	want := []dispatch.Replica{
		{Slices: 1, Total: 1, Slots: 1, Weight: 1},
		{Class: "h100", Slices: 5, Total: 1, Slots: 4, Weight: 0.25 / 4, KV: 450_000, MaxPrompt: 32_768},
		{Class: "l4", Slices: 1, Total: 1, Slots: 2, Weight: 0.25},
	}
	first := []config.Replica{plain, full, heavy}
	for name, o := range origins(t, first) {
		t.Run(name, func(t *testing.T) {
			var w watched
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				o.watcher.Watch(ctx, w.set)
			}()
			got := w.await(t, "at first", plain.Address, full.Address, heavy.Address)
			ids := map[string]string{}
			for i, r := range got {
				ids[r.Address] = r.ID
				if r.ID = ""; r.Replica != want[i] {
					t.Errorf("%s is %+v, want %+v", r.Address, r.Replica, want[i])
				}
			}
			if len(ids) != 3 || ids[plain.Address] == ids[heavy.Address] {
				t.Errorf("the IDs are %v", ids)
			}
			if o.publish != nil {
				o.changes(t, &w, ids[full.Address], full)
			}
			cancel()
			select {
			case <-ended:
			case <-time.After(60 * time.Second):
				t.Error("the watch does not end")
			}
		})
	}
}

// changes has replicas leave, the source fail, and one come.
func (o origin) changes(t *testing.T, w *watched, id string, full config.Replica) {
	moved := config.Replica{Address: "10.0.0.4:80", Class: "h100"}
	o.publish([]config.Replica{full})
	if got := w.await(t, "two left", full.Address); got[0].ID != id {
		t.Errorf("the one that stays was %s and is %s", id, got[0].ID)
	}
	_, sets := w.get()
	before := o.warnings.Load()
	o.fail()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(60 * time.Second); o.warnings.Load() == before; {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("the failure is not logged")
		}
	}
	o.publish([]config.Replica{full, moved})
	got := w.await(t, "one came", full.Address, moved.Address)
	if _, now := w.get(); now != sets+1 {
		t.Errorf("replicas were reported %d times since the source failed, want once", now-sets)
	}
	if got[0].ID != id || got[1].ID == id {
		t.Errorf("the IDs are %s and %s, the first was %s", got[0].ID, got[1].ID, id)
	}
	o.publish(nil)
	w.await(t, "all left")
}
