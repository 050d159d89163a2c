package nvidia_test

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/hcl"
	"github.com/hashicorp/nomad/plugins/device"

	"aliquot.example/e2e/conformance"
)

type groups = []*device.DeviceGroup

// child is the shipped plugin as the agent runs it, with one fingerprint stream
// that stays open.
type child struct {
	*conformance.Running
	stop func()
	log  *journal

	mu    sync.Mutex
	last  groups
	got   bool
	ended bool
	news  chan struct{}
}

// launch starts the binary with the text of a config block.
func (b *bench) launch(t *testing.T, env []string, text string) (*child, error) {
	t.Helper()
	var config map[string]any
	if err := hcl.Decode(&config, text); err != nil {
		t.Fatal(err)
	}
	log := keepLog(t)
	running, err := conformance.Launch{Binary: b.binary, Env: env, Config: config, Dir: t.TempDir(), Log: hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Info})}.Start()
	if err != nil {
		return nil, err
	}
	return &child{Running: running, stop: sync.OnceFunc(running.Kill), log: log, news: make(chan struct{})}, nil
}

// journal keeps what the plugins of a test log, for when it fails.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func keepLog(t *testing.T) *journal {
	j := &journal{}
	t.Cleanup(func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		if t.Failed() {
			t.Logf("log of the plugin:\n%s", j.text.String())
		}
	})
	return j
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

// has reports whether a plugin has logged a text.
func (j *journal) has(text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Contains(j.text.String(), text)
}

// plugin runs the shipped binary on the rack until the test ends.
func (b *bench) plugin(t *testing.T, more string) *child {
	t.Helper()
	return b.follow(t, b.env(), b.config(more))
}

func (b *bench) follow(t *testing.T, env []string, config string) *child {
	t.Helper()
	c, err := b.launch(t, env, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := c.Fingerprint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for r := range stream {
			c.note(r.Devices, r.Error != nil)
		}
		c.note(nil, true)
	}()
	return c
}

func (c *child) note(gs groups, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ended {
		c.ended = true
	} else {
		c.last, c.got = gs, true
	}
	close(c.news)
	c.news = make(chan struct{})
}

// until waits for the first fingerprint that satisfies ok.
func until(t *testing.T, c *child, what string, ok func(groups) bool) groups {
	t.Helper()
	return within(t, c, 15*time.Second, what, ok)
}

func within(t *testing.T, c *child, limit time.Duration, what string, ok func(groups) bool) groups {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		c.mu.Lock()
		last, got, ended, news := c.last, c.got, c.ended, c.news
		c.mu.Unlock()
		if got && ok(last) {
			return last
		}
		if ended {
			t.Fatalf("%s: the fingerprint stream ended", what)
		}
		select {
		case <-news:
		case <-deadline.C:
			t.Fatalf("%s: not within %s; the last fingerprint was %s", what, limit, conformance.Describe(last))
		}
	}
}

// groups is the last fingerprint.
func (c *child) groups() groups {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// kill ends the plugin with kill -9.
func (c *child) kill(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(c.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
