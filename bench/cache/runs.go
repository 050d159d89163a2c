package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"aliquot/internal/cacheapi"
)

// fetch has a cache fetch the model, and returns how long that took.
func (c *cacheProcess) fetch(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	for {
		m, err := c.api.Fetch(ctx, cacheapi.Fetch{Model: "hf://" + model, Wait: 60})
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

// fetchAll has caches fetch at once and returns the longest time.
func fetchAll(ctx context.Context, caches []*cacheProcess) (slowest time.Duration, err error) {
	var mu sync.Mutex
	var done sync.WaitGroup
	for _, c := range caches {
		done.Go(func() {
			took, failed := c.fetch(ctx)
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

// together measures all nodes at once, and then one that has all.
func together(ctx context.Context, s settings) error {
	l, err := open(ctx, s, "a")
	if err != nil {
		return err
	}
	defer l.close()
	slowest, err := fetchAll(ctx, l.caches)
	if err != nil {
		return err
	}
	read, err := l.read(ctx)
	if err != nil {
		return err
	}
	line("origin reads, all nodes at once", fmt.Sprintf("%.3fx", float64(read)/float64(s.bytes())), "target 1.00x")
	line("slowest node", fmt.Sprintf("%.2f link times (%.1f s)", slowest.Seconds()/s.linkTime().Seconds(), slowest.Seconds()), "target <= 1.5")
	before, err := l.read(ctx)
	if err != nil {
		return err
	}
	size := used(l.caches[0].dir)
	took, err := l.caches[0].fetch(ctx)
	if err != nil {
		return err
	}
	after, err := l.read(ctx)
	if err != nil {
		return err
	}
	line("warm start: asked and answered in", took.Round(100*time.Microsecond).String(), "target < 30ms")
	line("warm start: bytes copied, read again", fmt.Sprintf("%d, %d", used(l.caches[0].dir)-size, after-before), "target 0, 0")
	if err := cached(ctx, l); err != nil {
		return err
	}
	caches := l.caches
	l.close()
	l.caches = nil
	cpu := time.Duration(0)
	for _, c := range caches {
		cpu += c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime()
	}
	gb := float64(s.bytes()) * float64(s.nodes) / 1e9
	line("CPU per GB, fetched and sent to peers", fmt.Sprintf("%.2f s", cpu.Seconds()/gb), "target <= 2 s")
	return nil
}

// used is what a directory takes on the disk, in bytes; hard links count once.
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

// cached compares a GET of a whole file with net/http's own file server, by turns.
func cached(ctx context.Context, l *lab) error {
	objects := filepath.Join(l.caches[0].dir, "store", "objects")
	entries, err := os.ReadDir(objects)
	if err != nil || len(entries) != 1 {
		return fmt.Errorf("%d objects in %s: %w", len(entries), objects, err)
	}
	server := l.in(ctx, 1, l.s.self, "-files", objects)
	out, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	text, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return err
	}
	best := map[string]float64{}
	for range 7 {
		for name, url := range map[string]string{
			"plain": strings.TrimSpace(text) + "/" + entries[0].Name(),
			"cache": "http://127.0.0.1:" + hubPort + "/" + model + "/resolve/main/" + file,
		} {
			g, err := l.get(ctx, 1, url)
			if err != nil {
				return err
			}
			best[name] = max(best[name], float64(g.Bytes)/1e9/g.All.Seconds())
		}
	}
	line("GET of a cached file against sendfile", fmt.Sprintf("%.2f (%.1f and %.1f GB/s)", best["cache"]/best["plain"], best["cache"], best["plain"]), "target >= 0.9")
	return nil
}

// killed measures what the loss of one node in the middle costs.
func killed(ctx context.Context, s settings) error {
	l, err := open(ctx, s, "b")
	if err != nil {
		return err
	}
	defer l.close()
	victim := l.caches[s.nodes-1]
	go func() {
		for ctx.Err() == nil {
			m, err := victim.api.Fetch(ctx, cacheapi.Fetch{Model: "hf://" + model})
			if err != nil || m.State != cacheapi.Fetching || m.Bytes >= s.bytes()/2 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		_ = victim.cmd.Process.Kill()
	}()
	slowest, err := fetchAll(ctx, l.caches[:s.nodes-1])
	if err != nil {
		return err
	}
	read, err := l.read(ctx)
	if err != nil {
		return err
	}
	line("origin reads, one node killed at half", fmt.Sprintf("%.3fx", float64(read)/float64(s.bytes())), "target <= 1.05x")
	line("slowest of the others", fmt.Sprintf("%.2f link times", slowest.Seconds()/s.linkTime().Seconds()), "")
	return nil
}

// alone measures the first byte through a cache that has nothing, against the origin's.
func alone(ctx context.Context, s settings) error {
	l, err := open(ctx, s, "c")
	if err != nil {
		return err
	}
	defer l.close()
	path := "/" + model + "/resolve/main/" + file
	for _, ask := range []struct {
		node int
		url  string
	}{{1, l.url}, {2, "http://127.0.0.1:" + hubPort}} { // as every client does first
		if _, err := l.get(ctx, ask.node, ask.url+"/api/models/"+model+"/revision/main"); err != nil {
			return err
		}
	}
	direct, err := l.get(ctx, 1, l.url+path)
	if err != nil {
		return err
	}
	through, err := l.get(ctx, 2, "http://127.0.0.1:"+hubPort+path)
	if err != nil {
		return err
	}
	line("first byte, cold, beyond the origin's own", (through.First - direct.First).Round(100*time.Microsecond).String(), "target <= 50ms")
	line("one node alone, whole file", fmt.Sprintf("%.2f link times, directly %.2f", through.All.Seconds()/s.linkTime().Seconds(), direct.All.Seconds()/s.linkTime().Seconds()), "")
	return nil
}
