package simulate

import (
	"io"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// Point is the cost and attainment of one objective.
type Point struct {
	Name string
	// Stretch is the ratio of its limits to those of the base objective.
	Stretch float64
	// Attained is the part of the requests that were within it, 0 to 1.
	Attained, Cost float64
}

// PlotFrontier draws the cost and the attainment of objectives. format is "svg" or "png".
func PlotFrontier(w io.Writer, format, title string, points []Point) error {
	cost, err := curve("cost", "cost of the trace", points, func(p Point) float64 { return p.Cost })
	if err != nil {
		return err
	}
	within, err := curve("%", "requests within the objective", points, func(p Point) float64 {
		return 100 * p.Attained
	})
	if err != nil {
		return err
	}
	within.X.Label.Text = "times of the objective, as a multiple"
	cost.X.Min, within.X.Min = 0, 0
	return write(w, format, title, []panel{cost, within}, 24*vg.Centimeter, 14*vg.Centimeter)
}

func curve(y, name string, points []Point, value func(Point) float64) (panel, error) {
	p := newPanel(y)
	at := make(plotter.XYs, len(points))
	for i, point := range points {
		at[i] = plotter.XY{X: point.Stretch, Y: value(point)}
	}
	line, dots, err := plotter.NewLinePoints(at)
	if err != nil {
		return p, err
	}
	line.Color, dots.Color, dots.Shape = palette[0], palette[0], draw.CircleGlyph{}
	p.Add(line, dots)
	p.legend = append(p.legend, entry{name, line})
	return p, nil
}
