package profiler

import (
	"fmt"
	"image/color"
	"io"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// palette is readable on white and with most kinds of color blindness.
var palette = []color.Color{
	color.RGBA{0x00, 0x72, 0xb2, 0xff}, color.RGBA{0xd5, 0x5e, 0x00, 0xff}, color.RGBA{0x00, 0x9e, 0x73, 0xff},
	color.RGBA{0xcc, 0x79, 0xa7, 0xff},
}

// Plot draws measurements as points and curves as lines: prompts above, steps below. format is
// "svg" or "png".
func (r *Report) Plot(w io.Writer, format string) error {
	if r.Curve == nil {
		return fmt.Errorf("nothing to plot: too little was measured for a curve")
	}
	const width, height = 20 * vg.Centimeter, 22 * vg.Centimeter
	var canvas vg.CanvasWriterTo
	switch format {
	case "svg":
		canvas = vgsvg.New(width, height)
	case "png":
		canvas = vgimg.PngCanvas{Canvas: vgimg.New(width, height)}
	default:
		return fmt.Errorf("plot format %q: want svg or png", format)
	}
	prefill, err := r.plotPrefill()
	if err != nil {
		return err
	}
	steps, err := r.plotSteps()
	if err != nil {
		return err
	}
	plots := [][]*plot.Plot{{prefill}, {steps}}
	tiles := draw.Tiles{Rows: 2, Cols: 1, PadY: 6 * vg.Millimeter, PadTop: 4 * vg.Millimeter,
		PadRight: 4 * vg.Millimeter}
	for i, row := range plot.Align(plots, tiles, draw.New(canvas)) {
		plots[i][0].Draw(row[0])
	}
	_, err = canvas.WriteTo(w)
	return err
}

func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.X.Min, p.Y.Min, p.Legend.Top, p.Legend.Left = 0, 0, true, true
	p.Add(plotter.NewGrid())
	return p
}

func (r *Report) plotPrefill() (*plot.Plot, error) {
	p := newPlot(r.title(), "tokens of a prompt", "ms to the first token")
	var points, line plotter.XYs
	most := 0.0
	for _, one := range r.Points {
		if one.Concurrency == 1 {
			points, most = append(points, plotter.XY{X: one.Tokens, Y: 1e3 * one.First.Value}), max(most, one.Tokens)
		}
	}
	for i := range 101 {
		t := most * float64(i) / 100
		line = append(line, plotter.XY{X: t, Y: 1e3 * max(r.Curve.PrefillTime(t), r.Curve.StepTime(1, t))})
	}
	return p, addTo(p, "one request at a time", palette[0], points, line)
}

// plotSteps draws the step time by concurrency, with one line per prompt length.
func (r *Report) plotSteps() (*plot.Plot, error) {
	p := newPlot("", "answers at once", "ms of a step")
	var lengths []int
	for _, one := range r.Points {
		if one.Step.N > 0 && one.Concurrency > 1 && !slices.Contains(lengths, one.Prompt) {
			lengths = append(lengths, one.Prompt)
		}
	}
	slices.Sort(lengths)
	for i, length := range lengths {
		var points, line plotter.XYs
		for _, one := range r.Points {
			if one.Prompt == length && one.Step.N > 0 {
				points = append(points, plotter.XY{X: float64(one.Concurrency), Y: 1e3 * one.Step.Value})
				line = append(line, plotter.XY{X: float64(one.Concurrency),
					Y: 1e3 * r.Curve.StepTime(float64(one.Concurrency), one.KV)})
			}
		}
		if err := addTo(p, fmt.Sprintf("prompts of %d tokens", length), palette[i%len(palette)], points,
			line); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func addTo(p *plot.Plot, name string, c color.Color, points, line plotter.XYs) error {
	if len(points) == 0 {
		return nil
	}
	dots, err := plotter.NewScatter(points)
	if err != nil {
		return err
	}
	dots.Shape, dots.Radius, dots.Color = draw.CircleGlyph{}, vg.Points(2.5), c
	through, err := plotter.NewLine(line)
	if err != nil {
		return err
	}
	through.Color = c
	p.Add(through, dots)
	p.Legend.Add(name, dots, through)
	return nil
}
