package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"aliquot.example/internal/top"
)

// live is the view that refreshes in a terminal, on the alternate screen.
type live struct {
	view   top.View
	last   top.Snapshot
	text   string
	status string
}

// reading is the result of one reading of the cluster.
type reading struct {
	top.Snapshot
	err error
}

// watch shows the cluster until a key or a signal ends it. It returns an error if the first
// reading fails. Later failures, such as a server's restart, do not end the view.
func watch(ctx context.Context, cluster top.Cluster, interval time.Duration) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	looks := make(chan reading)
	go pollCluster(ctx, cluster, interval, looks)
	var first reading
	select {
	case first = <-looks:
	case <-ctx.Done():
		return nil
	}
	if first.err != nil {
		return first.err
	}
	pressed, restore := keyboard()
	defer restore()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	fmt.Print("\x1b[?1049h\x1b[?25l") // alternate screen, without a cursor
	defer fmt.Print("\x1b[?25h\x1b[?1049l")
	l := live{}
	l.take(first)
	var rest []byte
	for {
		l.draw()
		select {
		case <-ctx.Done():
			return nil
		case <-resized:
		case seen := <-looks:
			l.take(seen)
		case sent, ok := <-pressed:
			if !ok {
				pressed = nil // the input has ended, the view goes on
				continue
			}
			var keys []top.Key
			if keys, rest = top.Keys(append(rest, sent...)); l.press(keys) {
				return nil
			}
		}
	}
}

// pollCluster reads the cluster once per interval and sends the results, until ctx ends.
func pollCluster(ctx context.Context, cluster top.Cluster, interval time.Duration, looks chan<- reading) {
	for {
		s, err := snapshot(ctx, cluster)
		select {
		case looks <- reading{s, err}:
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return
		}
	}
}

// keyboard returns a channel of typed bytes, unbuffered and without echo; nil if the input is not
// a terminal. restore resets the terminal.
func keyboard() (pressed <-chan []byte, restore func()) {
	fd := int(os.Stdin.Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, func() {}
	}
	out := make(chan []byte)
	go func() {
		defer close(out)
		for {
			sent := make([]byte, 64)
			n, err := os.Stdin.Read(sent)
			if err != nil {
				return
			}
			out <- sent[:n]
		}
	}()
	return out, func() { _ = term.Restore(fd, before) }
}

func (l *live) take(seen reading) {
	if seen.err != nil {
		l.status = fmt.Sprintf("%s  trying again: %s", time.Now().Format(time.TimeOnly), flat(seen.err))
		return
	}
	l.last = seen.Snapshot
	l.status = l.last.At.Format(time.TimeOnly)
	l.lay()
}

// lay renders the last reading.
func (l *live) lay() {
	var text strings.Builder
	_ = top.Render(&text, l.view.Sorted(l.last)) // a strings.Builder never fails
	l.text = text.String()
}

// press handles keys, and reports whether one of them ends the view.
func (l *live) press(keys []top.Key) (quit bool) {
	_, height := window()
	for _, k := range keys {
		if k == top.Quit {
			return true
		}
		l.view = l.view.Press(k, strings.Count(l.text, "\n"), height-1)
		if k == top.Sort {
			l.lay()
		}
	}
	return false
}

// draw overwrites the screen line by line from the top left corner and clears the rest. This does
// not flicker.
func (l *live) draw() {
	width, height := window()
	last := top.Fit(l.status+"  "+l.view.Hint(), width, 1)
	screen := l.view.Window(l.text, width, height-1) + "\n" + last
	// The raw terminal does not return the carriage by itself.
	fmt.Printf("\x1b[H%s\x1b[K\x1b[J", strings.ReplaceAll(screen, "\n", "\x1b[K\r\n"))
}

// window returns the terminal's size in characters.
func window() (width, height int) {
	width, height, err := term.GetSize(int(os.Stdout.Fd()))
	if err != nil || width < 1 || height < 1 {
		return 80, 24
	}
	return width, height
}
