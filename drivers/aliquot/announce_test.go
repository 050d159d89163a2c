package aliquot

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	containerapi "github.com/docker/docker/api/types/container"
	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins/drivers"
)

// What happens before Nomad listens, or while its agent restarts, is said to the next
// listener, once and in order.
func TestEventsWaitForAListener(t *testing.T) {
	d := New(t.Context(), hclog.NewNullLogger(), MPS{})
	say := func(message string) { d.emit(&drivers.TaskConfig{ID: "a"}, message, nil) }
	hear := func(events <-chan *drivers.TaskEvent, want ...string) {
		t.Helper()
		for _, w := range want {
			select {
			case e := <-events:
				if e == nil || e.Message != w {
					t.Fatalf("heard %+v, want %q", e, w)
				}
			case <-t.Context().Done():
				t.Fatalf("never heard %q", w)
			}
		}
	}
	say("one")
	say("two")
	ctx, leave := context.WithCancel(t.Context())
	events, err := d.TaskEvents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	say("three")
	hear(events, "one", "two", "three")
	leave()
	for range events { // it closes once nobody listens
	}
	say("four")
	say("five")
	gone, leave := context.WithCancel(t.Context())
	leave()
	if events, err = d.TaskEvents(gone); err != nil {
		t.Fatal(err)
	}
	var heard []string
	for e := range events { // one that leaves at once may still hear some
		heard = append(heard, e.Message)
	}
	if events, err = d.TaskEvents(t.Context()); err != nil {
		t.Fatal(err)
	}
	hear(events, []string{"four", "five"}[len(heard):]...)
}

func TestUnheardEventsAreBounded(t *testing.T) {
	a := newAnnouncer(t.Context(), hclog.NewNullLogger())
	for i := range maxPending + 3 {
		a.send(&drivers.TaskEvent{Message: fmt.Sprint(i)})
	}
	_, unheard, leave, err := a.listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer leave()
	if len(unheard) != maxPending || unheard[0].Message != "3" {
		t.Errorf("%d events, the first is %q", len(unheard), unheard[0].Message)
	}
}

// A container that somebody kills while the engine's events are not being followed, at
// the driver's start or after the engine's, is reported afterwards.
func TestKillsWhileNobodyFollowedAreReported(t *testing.T) {
	c := engine(t)
	probeImage(t, c, "aliquot-test:1")
	since := time.Now()
	made, err := c.ContainerCreate(t.Context(), &containerapi.Config{Image: "aliquot-test:1", Cmd: []string{"stay"}}, nil, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.ContainerRemove(context.Background(), made.ID, containerapi.RemoveOptions{Force: true})
	})
	if err := c.ContainerStart(t.Context(), made.ID, containerapi.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := c.ContainerKill(t.Context(), made.ID, "KILL"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	d := New(ctx, hclog.NewNullLogger(), MPS{})
	d.tasks.add(ctx, &drivers.TaskConfig{ID: "a"}, made.ID, nil)
	events, err := d.TaskEvents(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- d.followEngine(&since) }()
	select {
	case e := <-events:
		if e == nil || !strings.Contains(e.Message, "killed by another client") {
			t.Errorf("event %+v", e)
		}
	case <-time.After(patience):
		t.Error("the kill was not reported")
	}
	cancel()
	<-ended
}
