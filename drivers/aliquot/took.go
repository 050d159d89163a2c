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
	// readyLook is how often a task is asked whether it is ready, readyFor how long.
	readyLook = 500 * time.Millisecond
	readyFor  = 2 * time.Hour
)

// took is what a start is made of.
type took struct {
	began time.Time
	parts []part
}

// part is one of learned.StartParts under the name that users read.
type part struct {
	what, note string
	seconds    float64
}

// add adds a part that took some time. What takes none is none.
func (k *took) add(what, note string, d time.Duration) {
	k.parts = append(k.parts, part{what, note, max(0, d).Seconds()})
}

// fetched adds what image and models took. The image is pulled beside them, so the models
// count from the moment at which it was here. Without a pull beside them (zero pulled),
// it counts to the container.
func (k *took) fetched(models bool, pulled, brought time.Time) {
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

// text is an event about the whole start.
func (k *took) text(ready bool) (message string, notes map[string]string) {
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

// readyURL is the URL that a ready task answers with 200, "" where its config names none.
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

// portOf is the address of a port that Nomad gave the allocation, "" without one. The
// task's environment would be the job's word.
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

// answers reports whether a URL answers with 200. The answer is the task's own, a redirect
// of it as well.
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

// reportStart says what a start took, once the task is ready.
func (d *Driver) reportStart(t *task, k took, ready string) {
	if ready != "" {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.ctx, readyFor)
		defer cancel()
		look := time.NewTicker(readyLook)
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
