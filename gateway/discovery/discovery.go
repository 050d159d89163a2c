// Package discovery finds the replicas of a service in Consul, in Nomad, in a file or in the
// configuration.
package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"

	"aliquot.example/gateway/config"
	"aliquot.example/gateway/line"
	"aliquot.example/internal/dispatch"
	"aliquot.example/internal/gpu"
)

// replica converts a source's description of a replica.
func replica(id string, r config.Replica) line.Replica {
	r.Slots, r.Slices, r.Total = max(r.Slots, 1), max(r.Slices, 1), max(r.Total, 1)
	weight := r.Weight
	if weight <= 0 {
		// Without a total, slices are whole GPUs.
		weight = tableWeight(r.Class) * float64(r.Slices) / float64(r.Total)
	}
	return line.Replica{Address: r.Address, Replica: dispatch.Replica{
		ID: id, Class: r.Class, Slices: r.Slices, Total: r.Total, Slots: r.Slots, Weight: weight / float64(r.Slots),
		KV: r.KVTokens, MaxPrompt: r.MaxPrompt,
	}}
}

func tableWeight(class string) float64 {
	for _, h := range gpu.Table() {
		if h.Class == class {
			return h.Weight
		}
	}
	return 1
}

// The largest valid values in a replica's description.
const (
	maxSlots  = 1 << 16
	maxTokens = 1 << 40
)

// described reads a replica's description from its meta or tags. A missing or invalid number counts
// as 1, an invalid weight as missing. It logs each invalid value once.
func described(address string, meta func(key string) string, log *onceLog) config.Replica {
	get := func(key string) string {
		text := meta(key)
		if strings.Contains(text, "${") {
			// The service of a group cannot refer to variables that only tasks have.
			log.warn("a replica's meta has a variable that Nomad did not replace; "+
				"move it to the service block of a task", address, key, text)
			return ""
		}
		return text
	}
	within := func(key string, most int) int {
		text := get(key)
		if text == "" {
			return 1
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > most {
			log.warn(fmt.Sprintf("a replica's meta is invalid and counts as 1: want a whole number from 1 to %d", most),
				address, key, text)
			return 1
		}
		return n
	}
	whole := func(key string) int { return within(key, maxSlots) }
	r := config.Replica{Address: address, Class: get(gpu.MetaClass), Slices: whole(gpu.MetaSlices),
		Slots: whole(gpu.MetaSlots), Total: whole(gpu.MetaTotal)}
	// 1 means missing or invalid: no engine has space for only one token.
	if n := within(gpu.MetaKVTokens, maxTokens); n > 1 {
		r.KVTokens = n
	}
	if n := within(gpu.MetaMaxPrompt, maxTokens); n > 1 {
		r.MaxPrompt = n
	}
	if text := get(gpu.MetaWeight); text != "" {
		w, err := strconv.ParseFloat(text, 64)
		if err != nil || !(w >= 0 && w < 1e9) { // 0 means that the device plugin does not know it
			log.warn("a replica's meta is invalid and is ignored: want a number from 0 to 1e9", address, gpu.MetaWeight,
				text)
		} else {
			r.Weight = w
		}
	}
	return r
}

// Static is a source of replicas: those in the configuration.
type Static []config.Replica

// Watch calls set once.
func (s Static) Watch(ctx context.Context, set func([]line.Replica)) {
	set(static(s))
	<-ctx.Done()
}

func static(replicas []config.Replica) []line.Replica {
	out := make([]line.Replica, 0, len(replicas))
	for _, r := range replicas {
		out = append(out, replica(r.Address, r))
	}
	return out
}

// File is a source of replicas: a file of replica blocks.
type File struct {
	Path string
	Log  *slog.Logger
}

// pollInterval is the interval at which a file is checked for changes.
const pollInterval = 500 * time.Millisecond

// Watch calls set whenever the file changes. It ignores an unreadable or invalid file.
func (f File) Watch(ctx context.Context, set func([]line.Replica)) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var seen os.FileInfo
	for {
		if info, err := os.Stat(f.Path); err != nil {
			if seen != nil {
				f.Log.Warn("cannot read replicas_file; keeping the last known replicas", "error", err)
			}
			seen = nil
		} else if seen == nil || info.ModTime() != seen.ModTime() || info.Size() != seen.Size() ||
			!os.SameFile(info, seen) {
			seen = info
			if replicas, err := config.Replicas(f.Path); err != nil {
				f.Log.Warn("replicas_file is invalid; keeping the last known replicas", "error", err)
			} else {
				set(static(replicas))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// backoff waits longer after each successive failure, at most 10 s, with jitter so that many
// gateways do not retry at the same time.
type backoff struct{ failures int }

func (b *backoff) wait(ctx context.Context) {
	base := min(10*time.Second, 100*time.Millisecond<<min(b.failures, 10))
	b.failures++
	t := time.NewTimer(base/2 + rand.N(base/2))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
