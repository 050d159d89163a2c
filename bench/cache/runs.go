package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"aliquot.example/internal/cacheapi"
)

// fetch makes a cache fetch the model, and returns how long that took.
func (c *cacheProcess) fetch(ctx context.Context, model string) (time.Duration, error) {
	began := time.Now()
	for {
		m, err := c.api.Fetch(ctx, cacheapi.Fetch{Model: model, Wait: 60})
		if err != nil {
			return 0, err
		}
		switch m.State {
		case cacheapi.Whole:
			return time.Since(began), nil
		case cacheapi.Failed:
			return 0, fmt.Errorf("%s", m.Error)
		}
	}
}

// fetchAll makes caches fetch the model at once and returns the longest time.
func fetchAll(ctx context.Context, model string, caches []*cacheProcess) (slowest time.Duration, err error) {
	var mu sync.Mutex
	var done sync.WaitGroup
	for _, c := range caches {
		done.Go(func() {
			took, failed := c.fetch(ctx, model)
			mu.Lock()
			defer mu.Unlock()
			slowest = max(slowest, took)
			if failed != nil {
				err = failed
			}
		})
	}
	done.Wait()
	return slowest, err
}

// together measures all nodes at once, and then one that has the whole model.
func together(ctx context.Context, s settings) error {
	l, err := open(ctx, s, "a")
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.all(ctx); err != nil {
		return err
	}
	if err := l.warm(ctx); err != nil {
		return err
	}
	if err := plain(ctx, l); err != nil {
		return err
	}
	return cached(ctx, l)
}

// other measures all nodes at once with another kind of origin and a model of half the size.
func other(kind string) func(ctx context.Context, s settings) error {
	return func(ctx context.Context, s settings) error {
		s.kind, s.mib = kind, max(1, s.mib/2)
		l, err := open(ctx, s, kind)
		if err != nil {
			return err
		}
		defer l.close()
		line("origin "+kind+"://", fmt.Sprintf("%d MiB", s.mib), "")
		return l.all(ctx)
	}
}

// all makes all nodes fetch the model at once and prints the results.
func (l *lab) all(ctx context.Context) error {
	size := float64(l.s.bytes())
	slowest, err := fetchAll(ctx, l.source.model, l.caches)
	if err != nil {
		return err
	}
	read, err := l.read(ctx)
	if err != nil {
		return err
	}
	user, system, err := l.cpu()
	if err != nil {
		return err
	}
	gb := size * float64(l.s.nodes) / 1e9
	line("origin reads, all nodes at once", fmt.Sprintf("%.3fx", float64(read)/size), "target 1.00x")
	line("slowest node", fmt.Sprintf("%.2f link times (%.1f s)", slowest.Seconds()/l.s.linkTime().Seconds(),
		slowest.Seconds()), "target <= 1.5")
	line("CPU per GB, fetched and sent to peers", fmt.Sprintf("%.2f s (%.2f and %.2f in the kernel)", (user+system)/gb,
		user/gb, system/gb), "target <= 2 s")
	return nil
}

// warm measures the start on a node that has the model.
func (l *lab) warm(ctx context.Context) error {
	before, err := l.read(ctx)
	if err != nil {
		return err
	}
	size := used(l.caches[0].dir)
	took, err := l.caches[0].fetch(ctx, l.source.model)
	if err != nil {
		return err
	}
	after, err := l.read(ctx)
	if err != nil {
		return err
	}
	line("warm start: asked and answered in", took.Round(100*time.Microsecond).String(), "target < 30ms")
	line("warm start: bytes copied, read again", fmt.Sprintf("%d, %d", used(l.caches[0].dir)-size, after-before),
		"target 0, 0")
	return nil
}

// cpu returns the CPU time of all caches so far, in seconds, in user and kernel mode.
func (l *lab) cpu() (user, system float64, err error) {
	for _, c := range l.caches {
		u, s, err := cpuOf(c.cmd.Process.Pid)
		if err != nil {
			return 0, 0, err
		}
		user, system = user+u, system+s
	}
	return user, system, nil
}

// cpuOf returns the CPU time of a process so far, in seconds.
func cpuOf(pid int) (user, system float64, err error) {
	const perSecond = 100 // clock ticks per second on Linux, see proc_pid_stat(5)
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The process name, in parentheses, may contain spaces.
	words := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err = strconv.ParseFloat(words[11], 64)
	if err == nil {
		system, err = strconv.ParseFloat(words[12], 64)
	}
	return user / perSecond, system / perSecond, err
}

// used returns the disk space of a directory, in bytes. Hard links count once.
func used(dir string) (sum int64) {
	seen := map[uint64]bool{}
	_ = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := os.Lstat(path)
		if err != nil {
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() && !seen[st.Ino] {
			seen[st.Ino] = true
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum
}

// cached compares a GET of a whole file from the cache with net/http's own file server, taking
// turns.
func cached(ctx context.Context, l *lab) error {
	objects := filepath.Join(l.caches[0].dir, "store", "objects")
	entries, err := os.ReadDir(objects)
	if err != nil || len(entries) != 1 {
		return fmt.Errorf("%d objects in %s: %w", len(entries), objects, err)
	}
	url, _, stop, err := l.serve(ctx, objects, "127.0.0.1")
	if err != nil {
		return err
	}
	defer stop()
	best := map[string]float64{}
	for range 7 {
		for name, url := range map[string]string{
			"plain": url + "/" + entries[0].Name(),
			"cache": "http://127.0.0.1:" + hubPort + "/" + model + "/resolve/main/" + file,
		} {
			g, err := l.get(ctx, 1, url)
			if err != nil {
				return err
			}
			best[name] = max(best[name], float64(g.Bytes)/1e9/g.All.Seconds())
		}
	}
	line("GET of a cached file against sendfile", fmt.Sprintf("%.2f (%.1f and %.1f GB/s)", best["cache"]/best["plain"],
		best["cache"], best["plain"]), "target >= 0.9")
	return nil
}

// killed measures what it costs to lose one node halfway.
func killed(ctx context.Context, s settings) error {
	l, err := open(ctx, s, "b")
	if err != nil {
		return err
	}
	defer l.close()
	victim := l.caches[s.nodes-1]
	go func() {
		for ctx.Err() == nil {
			m, err := victim.api.Fetch(ctx, cacheapi.Fetch{Model: l.source.model})
			if err != nil || m.State != cacheapi.Fetching || m.Bytes >= s.bytes()/2 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		_ = victim.cmd.Process.Kill()
	}()
	slowest, err := fetchAll(ctx, l.source.model, l.caches[:s.nodes-1])
	if err != nil {
		return err
	}
	read, err := l.read(ctx)
	if err != nil {
		return err
	}
	line("origin reads, one node killed at half", fmt.Sprintf("%.3fx", float64(read)/float64(s.bytes())),
		"target <= 1.05x")
	line("slowest of the others", fmt.Sprintf("%.2f link times", slowest.Seconds()/s.linkTime().Seconds()), "")
	return nil
}

// alone measures the time to the first byte through an empty cache, compared with the origin's, and
// one node that fetches alone.
func alone(ctx context.Context, s settings) error {
	l, err := open(ctx, s, "c")
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.firstBytes(ctx); err != nil {
		return err
	}
	direct, through, err := l.both(ctx, model)
	if err != nil {
		return err
	}
	line("one node alone, whole file", fmt.Sprintf("%.2f link times, directly %.2f",
		through.All.Seconds()/s.linkTime().Seconds(), direct.All.Seconds()/s.linkTime().Seconds()), "")
	return nil
}

// firstBytes measures the time to the first byte of several models that no cache has.
func (l *lab) firstBytes(ctx context.Context) error {
	var beyond []time.Duration
	for i := range firsts {
		direct, through, err := l.both(ctx, firstModel(i))
		if err != nil {
			return err
		}
		beyond = append(beyond, through.First-direct.First)
	}
	slices.Sort(beyond)
	line("first byte, cold, beyond the origin's own", fmt.Sprintf("median %s of %s to %s",
		beyond[len(beyond)/2].Round(time.Millisecond), beyond[0].Round(time.Millisecond),
		beyond[len(beyond)-1].Round(time.Millisecond)), "target <= 50ms")
	return nil
}

// both reads a model directly from the origin on one node, and then through the cache of another.
func (l *lab) both(ctx context.Context, name string) (direct, through got, err error) {
	for _, ask := range []struct {
		node int
		url  string
		got  *got
	}{{1, l.url, &direct}, {2, "http://127.0.0.1:" + hubPort, &through}} {
		// Every client requests this first.
		if _, err := l.get(ctx, ask.node, ask.url+"/api/models/"+name+"/revision/main"); err != nil {
			return direct, through, err
		}
		if *ask.got, err = l.get(ctx, ask.node, ask.url+"/"+name+"/resolve/main/"+file); err != nil {
			return direct, through, err
		}
	}
	return direct, through, nil
}
