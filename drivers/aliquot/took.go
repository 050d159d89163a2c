package aliquot

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"

	"aliquot.example/internal/learned"
)

const (
	// readyInterval is the interval between two ready checks of a task, readyTimeout how long they are
	// repeated.
	readyInterval = 500 * time.Millisecond
	readyTimeout  = 2 * time.Hour
)

// startTimes has the durations of the parts of a start.
type startTimes struct {
	began time.Time
	parts []part
}

// part is one of learned.StartParts, with its name for users.
type part struct {
	what, note string
	seconds    float64
}

// add adds a part. A negative duration counts as zero.
func (k *startTimes) add(what, note string, d time.Duration) {
	k.parts = append(k.parts, part{what, note, max(0, d).Seconds()})
}

// fetched adds the times of image and models. They are fetched concurrently, so the time of the
// models starts when the image is complete. If pulled is zero, there was no concurrent pull, and
// the pull counts as part of the container's time.
func (k *startTimes) fetched(models bool, pulled, brought time.Time) {
	if !pulled.IsZero() {
		k.add("image", "image", pulled.Sub(k.began))
	}
	if models {
		k.add("models", "models", brought.Sub(latest(k.began, pulled)))
	}
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// text returns the message and annotations of an event about the whole start.
func (k *startTimes) text(ready bool) (message string, notes map[string]string) {
	notes = map[string]string{}
	words := make([]string, len(k.parts))
	all := 0.0
	for i, p := range k.parts {
		words[i] = fmt.Sprintf("%s %.1f s", p.what, p.seconds)
		learned.NotePart(notes, p.note, p.seconds)
		all += p.seconds
	}
	until := "until the container runs"
	if ready {
		until = "until the task is ready"
	}
	return fmt.Sprintf("start took %.1f s %s: %s", all, until, strings.Join(words, ", ")), notes
}

// readyURL returns the URL that answers 200 when the task is ready, or "" if its config has no check.
func (c TaskConfig) readyURL(cfg *drivers.TaskConfig) (string, error) {
	if c.ReadyCheck == "" {
		return "", nil
	}
	label, path, ok := strings.Cut(c.ReadyCheck, "/")
	address := portOf(cfg, label)
	if !ok || address == "" {
		return "",
			fmt.Errorf("ready_check is %q: want a port's label and a path, such as \"http/health\" for a port "+
				"\"http\" of the group's network", c.ReadyCheck)
	}
	return "http://" + address + "/" + path, nil
}

// portOf returns the address of a port that Nomad assigned to the allocation, or "". It does not use the
// task's environment, which the job may set.
func portOf(cfg *drivers.TaskConfig, label string) string {
	if cfg.Resources == nil || cfg.Resources.Ports == nil {
		return ""
	}
	port, ok := cfg.Resources.Ports.Get(label)
	if !ok {
		return ""
	}
	return net.JoinHostPort(port.HostIP, strconv.Itoa(port.Value))
}

// answers reports whether a URL answers 200. It does not follow redirects, because only the task itself
// may answer.
func answers(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// reportStart emits an event with the durations of a start, once the task is ready.
func (d *Driver) reportStart(t *task, k startTimes, ready string) {
	if ready != "" {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.ctx, readyTimeout)
		defer cancel()
		look := time.NewTicker(readyInterval)
		defer look.Stop()
		for !answers(ctx, ready) {
			select {
			case <-ctx.Done():
				return
			case <-look.C:
			}
		}
		k.add("load", "load", time.Since(began))
	}
	message, notes := k.text(ready != "")
	d.emit(t.config, message, notes)
}
