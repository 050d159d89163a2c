package main

import (
	"bytes"
	"cmp"
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

// view shows the replay while it runs: in place in a terminal, otherwise as one line every few
// seconds.
type view struct {
	out    *os.File
	live   bool
	stage  *stage
	watch  *watch
	replay *replay
	what   string
	last   time.Duration // the time in the replay at which the last line was written
}

func newView(out *os.File, s *stage, w *watch, r *replay, what string) *view {
	v := &view{out: out, stage: s, watch: w, replay: r, what: what, last: -time.Hour}
	v.live = term.IsTerminal(int(out.Fd())) && os.Getenv("TERM") != "dumb"
	return v
}

// lineInterval is the interval between lines if the output is not a terminal.
const lineInterval = 5 * time.Second

// show draws the current state.
func (v *view) show() {
	v.watch.mu.Lock()
	defer v.watch.mu.Unlock()
	at := v.replay.since()
	if !v.live {
		if at-v.last >= lineInterval {
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

// fit returns a screen of the terminal's size that overwrites the last one: it moves to the top
// left corner and clears what is to the right of and below the text.
func fit(text string, out *os.File) string {
	width, height, err := term.GetSize(int(out.Fd()))
	if err != nil {
		width, height = 100, 40
	}
	return "\x1b[H" + strings.Join(screen(text, width, height), "\x1b[K\n") + "\x1b[K\n\x1b[J"
}

// screen wraps a text into lines of a terminal. A line that is too wide continues below the column
// to which it belongs. Lines beyond the height are left out.
func screen(text string, width, height int) []string {
	var lines []string
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		lines = append(lines, folded([]rune(strings.TrimRight(line, "\n")), width)...)
	}
	return lines[:max(0, min(len(lines), height-1))]
}

// folded wraps a line at spaces to a width.
func folded(line []rune, width int) []string {
	indent := 0 // the last column that starts in the left two thirds
	for i := 2; i < min(len(line), 2*width/3); i++ {
		if line[i] != ' ' && line[i-1] == ' ' && line[i-2] == ' ' {
			indent = i
		}
	}
	var out []string
	for len(line) > width {
		at := width
		for at > indent+1 && line[at] != ' ' {
			at--
		}
		if line[at] != ' ' {
			at = width // a word that is longer than a line
		}
		out = append(out, strings.TrimRight(string(line[:at]), " "))
		rest := strings.TrimLeft(string(line[at:]), " ")
		if rest == "" {
			return out
		}
		line = []rune(strings.Repeat(" ", indent) + rest)
	}
	return append(out, string(line))
}

func (v *view) draw(w io.Writer, at time.Duration) {
	sent, answered, lost := v.replay.progress()
	fmt.Fprintf(w, "Aliquot: %s\n\n", v.what)
	fmt.Fprintf(w, "%s   requests %d of %d sent, %d answered, %d in flight, %d lost\n\n",
		clock(at), sent, len(v.replay.calls), answered, sent-answered-lost, lost)
	s := v.watch.snapshot
	var gpus []top.GPU
	for _, node := range s.Nodes {
		gpus = append(gpus, node.GPUs...)
	}
	drawGPUs(w, gpus)
	fmt.Fprintln(w)
	drawServices(w, s.Services)
	fmt.Fprintln(w)
	for _, service := range []string{chat, code} {
		fmt.Fprintf(w, "Consul splits   %-5s %s\n", service, v.watch.sharesAt(service, time.Now()))
	}
	decision := "none yet"
	if n := len(v.watch.actions); n > 0 {
		a := v.watch.actions[n-1]
		decision = fmt.Sprintf("%.0f s ago  %s", time.Since(a.at).Seconds(), a)
	}
	fmt.Fprintf(w, "last scaling    %s\n", decision)
	if v.watch.problem != nil {
		fmt.Fprintf(w, "note            %v\n", v.watch.problem)
	}
}

// drawGPUs draws a bar of slices for each GPU, with column headers.
func drawGPUs(w io.Writer, gpus []top.GPU) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GPU\tSLICES (A LETTER: A TASK)\tHELD\tBUSY\tLIMITS HELD BY\tTASKS AND THEIR SLICES")
	for _, g := range gpus {
		bar, holders := g.Bar()
		var who []string
		for _, h := range holders {
			who = append(who, fmt.Sprintf("%c %s %d", h.Mark, h.Job, h.Slices))
		}
		busy := "-"
		if g.UsePercent >= 0 {
			busy = fmt.Sprintf("%.0f%%", g.UsePercent)
		}
		tasks := cmp.Or(strings.Join(who, ", "), "none")
		fmt.Fprintf(t, "%s\t[%s]\t%d of %d\t%s\t%s\t%s\n", g.Group, bar, g.Used(), len(g.Slices), busy,
			g.Enforcement, tasks)
	}
	_ = t.Flush()
}

func drawServices(w io.Writer, services []top.Service) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tWAITING\tSERVED\tCLASS\tREPLICAS\tSLOTS\tBUSY\tREQUESTS/S OF A SLOT")
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

// speed formats a learned rate, in typical requests of the service.
func speed(r float64) string {
	if r <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
}

// line returns the view as one line.
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
