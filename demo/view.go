package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"aliquot.example/internal/top"
)

// view shows the replay while it runs: in place in a terminal, elsewhere as one
// line every few seconds.
type view struct {
	out    *os.File
	live   bool
	stage  *stage
	watch  *watch
	replay *replay
	what   string
	last   time.Duration // of the replay, when the last line was written
}

func newView(out *os.File, s *stage, w *watch, r *replay, what string) *view {
	v := &view{out: out, stage: s, watch: w, replay: r, what: what, last: -time.Hour}
	v.live = term.IsTerminal(int(out.Fd())) && os.Getenv("TERM") != "dumb"
	return v
}

// lineEvery is the time between two lines where there is no terminal.
const lineEvery = 5 * time.Second

// show draws what is known now.
func (v *view) show() {
	v.watch.mu.Lock()
	defer v.watch.mu.Unlock()
	at := v.replay.since()
	if !v.live {
		if at-v.last >= lineEvery {
			v.last = at
			fmt.Fprintln(v.out, v.line(at))
		}
		return
	}
	var text bytes.Buffer
	v.draw(&text, at)
	fmt.Fprint(v.out, fit(text.String(), v.out))
}

// begin makes room for a view that is drawn in place.
func (v *view) begin() {
	if v.live {
		fmt.Fprint(v.out, "\x1b[H\x1b[2J")
	}
}

// fit cuts a picture to the terminal and makes it one that overwrites the last:
// it goes to the top left corner and clears what is right of and below it.
func fit(text string, out *os.File) string {
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil {
		width, height = 100, 40
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	lines = lines[:min(len(lines), height-1)]
	for i, line := range lines {
		if runes := []rune(line); len(runes) > width {
			lines[i] = string(runes[:width])
		}
	}
	return "\x1b[H" + strings.Join(lines, "\x1b[K\n") + "\x1b[K\n\x1b[J"
}

func (v *view) draw(w io.Writer, at time.Duration) {
	sent, answered, lost := v.replay.progress()
	fmt.Fprintf(w, "Aliquot: %s\n\n", v.what)
	fmt.Fprintf(w, "%s   requests %d of %d sent, %d answered, %d in flight, %d lost\n\n",
		clock(at), sent, len(v.replay.calls), answered, sent-answered-lost, lost)
	s := v.watch.snapshot
	for _, node := range s.Nodes {
		for _, g := range node.GPUs {
			drawGPU(w, g)
		}
	}
	fmt.Fprintln(w)
	drawServices(w, s.Services)
	fmt.Fprintln(w)
	for _, service := range []string{chat, code} {
		fmt.Fprintf(w, "Consul splits   %-5s %s\n", service, v.watch.sharesAt(service, time.Now()))
	}
	decision := "none yet"
	if n := len(v.watch.actions); n > 0 {
		a := v.watch.actions[n-1]
		decision = fmt.Sprintf("%s (%.0f s ago)", a, time.Since(a.at).Seconds())
	}
	fmt.Fprintf(w, "last scaling    %s\n", decision)
	if v.watch.problem != nil {
		fmt.Fprintf(w, "note            %v\n", v.watch.problem)
	}
}

func drawGPU(w io.Writer, g top.GPU) {
	bar, holders := g.Bar()
	var who []string
	for _, h := range holders {
		who = append(who, fmt.Sprintf("%c %s %d", h.Mark, h.Job, h.Slices))
	}
	use := "    "
	if g.UsePercent >= 0 {
		use = fmt.Sprintf("%3.0f%%", g.UsePercent)
	}
	fmt.Fprintf(w, "%-9s [%s] %2d/%d %s  %-17s %s\n", g.Group, bar, g.Used(), len(g.Slices), use, g.Enforcement,
		strings.Join(who, ", "))
}

func drawServices(w io.Writer, services []top.Service) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tQUEUED\tACTIVE\tCLASS\tREPLICAS\tSLOTS\tACTIVE\tTOKENS/S OF A SLOT")
	for _, s := range services {
		head := fmt.Sprintf("%s\t%.0f\t%.0f", s.Name, s.Queued, s.Active)
		if len(s.Classes) == 0 {
			fmt.Fprintf(t, "%s\tno replica\n", head)
		}
		for _, c := range s.Classes {
			fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%.0f\t%s\n", head, c.Name, c.Replicas, c.Slots, c.Active, speed(c.Rate))
			head = "\t\t"
		}
	}
	_ = t.Flush()
}

// speed is a learned rate; calls declare their work in tokens.
func speed(r float64) string {
	if r <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", r)
}

// line is the picture in one line.
func (v *view) line(at time.Duration) string {
	sent, answered, lost := v.replay.progress()
	parts := []string{fmt.Sprintf("%s  sent %d answered %d lost %d", clock(at), sent, answered, lost)}
	for _, s := range v.watch.snapshot.Services {
		text := fmt.Sprintf("%s: queued %.0f active %.0f", s.Name, s.Queued, s.Active)
		for _, c := range s.Classes {
			text += fmt.Sprintf(" %s x%d", c.Name, c.Replicas)
		}
		parts = append(parts, text)
	}
	if n := len(v.watch.actions); n > 0 {
		parts = append(parts, v.watch.actions[n-1].short())
	}
	return strings.Join(parts, " | ")
}

func clock(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}

func (s shares) String() string {
	if len(s) == 0 {
		return "none"
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(s)) {
		parts = append(parts, fmt.Sprintf("%s %.2f%%", name, s[name]))
	}
	return strings.Join(parts, "   ")
}

func (a action) short() string { return fmt.Sprintf("%s/%s %d -> %d", a.job, a.group, a.from, a.to) }

func (a action) String() string { return a.short() + ": " + a.reason }
