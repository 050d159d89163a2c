package simulate

import (
	"fmt"
	"image/color"
	"io"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Plot draws three panels over time: demand against the slots of ready replicas, replicas by class,
// and the wait of each request. The panels share one time axis. Each legend is above its panel, so
// that it covers no line. format is "svg" or "png".
func Plot(w io.Writer, format, title string, r Result, trace []Request, classes []Class) error {
	panels, err := panels(r, trace, classes)
	if err != nil {
		return err
	}
	return write(w, format, title, panels, 24*vg.Centimeter, 20*vg.Centimeter)
}

// write draws panels one below the other.
func write(w io.Writer, format, title string, panels []panel, width, height vg.Length) error {
	var canvas vg.CanvasWriterTo
	switch format {
	case "svg":
		canvas = vgsvg.New(width, height)
	case "png":
		canvas = vgimg.PngCanvas{Canvas: vgimg.New(width, height)}
	default:
		return fmt.Errorf("plot format %q: want svg or png", format)
	}
	drawPanels(draw.New(canvas), title, panels)
	_, err := canvas.WriteTo(w)
	return err
}

// panel is one plot and the legend above it.
type panel struct {
	*plot.Plot
	legend []entry
}

type entry struct {
	name string
	line plot.Thumbnailer
}

const (
	titleHeight  = 9 * vg.Millimeter
	legendHeight = 6 * vg.Millimeter
)

func drawPanels(c draw.Canvas, title string, panels []panel) {
	heading := panels[0].Title.TextStyle
	heading.XAlign, heading.YAlign = draw.XCenter, draw.YTop
	c.FillText(heading, vg.Point{X: c.Center().X, Y: c.Max.Y - 2*vg.Millimeter}, title)
	c = draw.Crop(c, 0, -2*vg.Millimeter, 0, -titleHeight)
	rows := make([][]*plot.Plot, len(panels))
	for i, p := range panels {
		rows[i] = []*plot.Plot{p.Plot}
	}
	tiles := draw.Tiles{Rows: len(rows), Cols: 1, PadY: legendHeight + vg.Millimeter, PadTop: legendHeight}
	for i, row := range plot.Align(rows, tiles, c) {
		panels[i].Draw(row[0])
		data := panels[i].DataCanvas(row[0])
		drawLegend(draw.Canvas{Canvas: c, Rectangle: vg.Rectangle{
			Min: vg.Point{X: data.Min.X, Y: row[0].Max.Y}, Max: vg.Point{X: data.Max.X, Y: row[0].Max.Y + legendHeight},
		}}, panels[i].legend)
	}
}

// drawLegend draws as many entries as fit into c, side by side from the left.
func drawLegend(c draw.Canvas, of []entry) {
	for _, e := range of {
		l := plot.NewLegend()
		l.Left, l.Top = true, true
		l.Add(e.name, e.line)
		width := l.Rectangle(c).Size().X + 4*vg.Millimeter
		if width > c.Size().X {
			return
		}
		l.Draw(c)
		c.Min.X += width
	}
}

// palette is readable on white and with most kinds of color blindness.
var palette = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff},
}

func panels(r Result, trace []Request, classes []Class) ([]panel, error) {
	demand, err := lines("requests", []series{
		{"slots of ready replicas", 1, func(s Sample) float64 { return slotsOf(s.Ready, classes) }},
		{"demand: waiting and being served", 0, func(s Sample) float64 { return s.Demand }},
	}, r.Timeline)
	if err != nil {
		return nil, err
	}
	var of []series
	for c, class := range classes {
		of = append(of, series{class.Name + " wanted", 2 * c, func(s Sample) float64 { return float64(s.Desired[c]) }},
			series{class.Name + " ready", 2*c + 1, func(s Sample) float64 { return float64(s.Ready[c]) }})
	}
	replicas, err := lines("replicas", of, r.Timeline)
	if err != nil {
		return nil, err
	}
	waits, err := waits(r, trace)
	if err != nil {
		return nil, err
	}
	all := []panel{demand, replicas, waits}
	shareTime(all)
	return all, nil
}

// waits returns a panel with one point per request.
func waits(r Result, trace []Request) (panel, error) {
	p := newPanel("seconds")
	points := make(plotter.XYs, len(trace))
	for i, q := range trace {
		points[i] = plotter.XY{X: q.At.Minutes(), Y: r.Waits[i].Seconds()}
	}
	scatter, err := plotter.NewScatter(points)
	if err != nil {
		return p, err
	}
	scatter.Shape, scatter.Radius, scatter.Color = draw.CircleGlyph{}, vg.Points(0.8), palette[0]
	p.Add(scatter)
	p.legend = append(p.legend, entry{"wait of each request", scatter})
	return p, nil
}

func newPanel(y string) panel {
	p := plot.New()
	p.Y.Label.Text, p.Y.Min = y, 0
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.TickerFunc(ticks), plot.TickerFunc(ticks)
	p.Add(plotter.NewGrid())
	return panel{Plot: p}
}

// shareTime gives all panels the longest time axis. It makes each y axis at least one unit high, so
// that a flat line at zero lies on the x axis.
func shareTime(panels []panel) {
	var end float64
	for _, p := range panels {
		end = max(end, p.X.Max)
		p.Y.Max = max(p.Y.Max, 1)
	}
	for _, p := range panels {
		p.X.Min, p.X.Max = 0, end
	}
	panels[len(panels)-1].X.Label.Text = "minutes since the start of the trace"
}

// ticks returns the library's ticks with the shortest labels for their values: 0, 0.5, 12.
func ticks(lo, hi float64) []plot.Tick {
	of := plot.DefaultTicks{}.Ticks(lo, hi)
	for i := range of {
		if of[i].Label != "" {
			of[i].Label = strconv.FormatFloat(of[i].Value, 'g', 6, 64)
		}
	}
	return of
}

type series struct {
	name  string
	color int
	value func(Sample) float64
}

// lines returns a panel with one stepped line per series.
func lines(y string, of []series, timeline []Sample) (panel, error) {
	p := newPanel(y)
	for _, s := range of {
		points := make(plotter.XYs, len(timeline))
		for i, sample := range timeline {
			points[i] = plotter.XY{X: sample.At.Minutes(), Y: s.value(sample)}
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return p, err
		}
		line.StepStyle, line.Color = plotter.PreStep, palette[s.color%len(palette)]
		p.Add(line)
		p.legend = append(p.legend, entry{s.name, line})
	}
	return p, nil
}

func slotsOf(replicas []int, classes []Class) float64 {
	slots := 0
	for c, n := range replicas {
		slots += n * classes[c].Slots
	}
	return float64(slots)
}
