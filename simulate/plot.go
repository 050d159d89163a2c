package simulate

import (
	"fmt"
	"image/color"
	"io"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Plot draws three panels over time: demand and queue against the slots that are
// ready, replicas by class, and the wait of each request. Format is "svg" or "png".
func Plot(w io.Writer, format, title string, r Result, trace []Request, classes []Class) error {
	const width, height = 24 * vg.Centimeter, 20 * vg.Centimeter
	panels, err := panels(title, r, trace, classes)
	if err != nil {
		return err
	}
	var canvas vg.CanvasWriterTo
	switch format {
	case "svg":
		canvas = vgsvg.New(width, height)
	case "png":
		canvas = vgimg.PngCanvas{Canvas: vgimg.New(width, height)}
	default:
		return fmt.Errorf("plot format %q: want svg or png", format)
	}
	rows := make([][]*plot.Plot, len(panels))
	for i, p := range panels {
		rows[i] = []*plot.Plot{p}
	}
	tiles := draw.Tiles{Rows: len(rows), Cols: 1, PadY: vg.Millimeter * 4, PadX: 0}
	for i, row := range plot.Align(rows, tiles, draw.New(canvas)) {
		rows[i][0].Draw(row[0])
	}
	_, err = canvas.WriteTo(w)
	return err
}

// palette is readable on white and for most kinds of colour blindness.
var palette = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff}, color.RGBA{0xe6, 0x9f, 0x00, 0xff}, color.RGBA{0x56, 0xb4, 0xe9, 0xff},
}

func panels(title string, r Result, trace []Request, classes []Class) ([]*plot.Plot, error) {
	demand := newPanel(title, "requests at once")
	if err := lines(demand, []series{
		{"slots ready", 1, func(s Sample) float64 { return slotsOf(s.Ready, classes) }},
		{"demand (queued and active)", 0, func(s Sample) float64 { return s.Demand }},
	}, r.Timeline); err != nil {
		return nil, err
	}
	replicas := newPanel("", "replicas")
	var of []series
	for c, class := range classes {
		of = append(of, series{class.Name + " set", 2 * c, func(s Sample) float64 { return float64(s.Desired[c]) }},
			series{class.Name + " ready", 2*c + 1, func(s Sample) float64 { return float64(s.Ready[c]) }})
	}
	if err := lines(replicas, of, r.Timeline); err != nil {
		return nil, err
	}
	waits := newPanel("", "wait, s")
	waits.X.Label.Text = "time, minutes"
	points := make(plotter.XYs, len(trace))
	for i, q := range trace {
		points[i] = plotter.XY{X: q.At.Minutes(), Y: r.Waits[i].Seconds()}
	}
	scatter, err := plotter.NewScatter(points)
	if err != nil {
		return nil, err
	}
	scatter.Shape, scatter.Radius, scatter.Color = draw.CircleGlyph{}, vg.Points(0.8), palette[0]
	waits.Add(scatter)
	return []*plot.Plot{demand, replicas, waits}, nil
}

func newPanel(title, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text, p.Y.Min = title, y, 0
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	return p
}

type series struct {
	name  string
	color int
	value func(Sample) float64
}

func lines(p *plot.Plot, of []series, timeline []Sample) error {
	for _, s := range of {
		points := make(plotter.XYs, len(timeline))
		for i, sample := range timeline {
			points[i] = plotter.XY{X: sample.At.Minutes(), Y: s.value(sample)}
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return err
		}
		line.StepStyle, line.Color = plotter.PreStep, palette[s.color%len(palette)]
		p.Add(line)
		p.Legend.Add(s.name, line)
	}
	return nil
}

func slotsOf(replicas []int, classes []Class) float64 {
	slots := 0
	for c, n := range replicas {
		slots += n * classes[c].Slots
	}
	return float64(slots)
}
