// Package plot draws shares over time, and the faults meanwhile, as SVG.
package plot

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"math"
	"os"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// Series is a line. X grows, in the unit of the chart's XLabel; Y is in percent,
// 0..100; they are of equal length.
type Series struct {
	Name string
	X, Y []float64
}

// Band is a fault under way from From to To, on the X axis. It shades the lines.
// With a Row it is a bar below them too, on the line of that name, and its label is
// in the bar or beside it, cut where there is no room; without one the label is at the top.
type Band struct {
	From, To float64
	Label    string
	Row      string
}

// Chart is what Write draws. The rows of Bands stand in the order in which they
// first occur.
type Chart struct {
	Title, XLabel, YLabel string
	Series                []Series
	Bands                 []Band
}

// What the chart is made of, in points.
const (
	width       = 760
	linesHeight = 250 // of 0..100 %
	rowHeight   = 17
	margin      = 12
	fontSize    = 10
	smallSize   = 8
)

// Write writes c to path as SVG, on a white ground. The same chart is always the
// same file. It is an error if c has no series, or one that is not as Series says.
func Write(path string, c Chart) error {
	if err := c.check(); err != nil {
		return fmt.Errorf("plot %s: %w", path, err)
	}
	lines := plot.New()
	lines.Title.Text, lines.Title.TextStyle.Font = c.Title, sans(fontSize+2)
	lines.Title.Padding = 8
	lines.X.Label.Text, lines.Y.Label.Text = c.XLabel, c.YLabel
	rows := c.rows()
	x0, x1 := c.span()
	lines.X.Min, lines.X.Max = x0, x1
	lines.Y.Min, lines.Y.Max = below(len(rows)), 102
	lines.X.Tick.Marker, lines.Y.Tick.Marker = even(x0, x1), percents(rows)
	lines.X.Padding, lines.Y.Padding = 0, 0
	for _, a := range []*plot.Axis{&lines.X, &lines.Y} {
		a.Label.TextStyle.Font, a.Tick.Label.Font = sans(fontSize), sans(fontSize)
		a.Color, a.Tick.Color = grey, grey
	}
	lines.Y.Width, lines.Y.Tick.Width, lines.Y.Tick.Length = 0, 0, 5
	lines.Y.Tick.Label.XAlign = text.XRight
	if len(rows) > 0 {
		lines.Y.Label.Position = draw.PosTop
	}
	lines.Add(bands{c.Bands, rows})
	for i, s := range c.Series {
		xys := make(plotter.XYs, len(s.X))
		for j := range s.X {
			xys[j] = plotter.XY{X: s.X[j], Y: s.Y[j]}
		}
		line, err := plotter.NewLine(xys)
		if err != nil {
			return fmt.Errorf("plot %s: %s: %w", path, s.Name, err)
		}
		line.LineStyle = styleOf(i)
		lines.Add(line)
	}

	names := legend(c.Series)
	height := vg.Length(linesHeight + rowHeight*len(rows) + 90 + names.height())
	svg := vgsvg.NewWith(vgsvg.UseWH(width, height))
	page := draw.New(svg)
	page.SetColor(color.White)
	page.Fill(page.Path())
	names.draw(draw.Crop(page, margin, -margin, margin/2, 0))
	lines.BackgroundColor = nil
	lines.Draw(draw.Crop(page, margin, -2*margin, vg.Length(names.height())+margin, -margin))

	var out bytes.Buffer
	if _, err := svg.WriteTo(&out); err != nil {
		return fmt.Errorf("plot %s: %w", path, err)
	}
	// The font by which the text was measured, or one as wide.
	drawn := bytes.ReplaceAll(out.Bytes(), []byte("font-family:Liberation Sans;"),
		[]byte("font-family:'Liberation Sans',Arial,Helvetica,sans-serif;"))
	return os.WriteFile(path, drawn, 0o644) //nolint:gosec // a picture for everybody
}

func (c Chart) check() error {
	if len(c.Series) == 0 {
		return errors.New("no series")
	}
	for _, s := range c.Series {
		if len(s.X) != len(s.Y) || len(s.X) == 0 {
			return fmt.Errorf("%s has %d X and %d Y", s.Name, len(s.X), len(s.Y))
		}
		for i, y := range s.Y {
			if !(y >= 0 && y <= 100) {
				return fmt.Errorf("%s is %v %% at %v", s.Name, y, s.X[i])
			}
			if i > 0 && !(s.X[i] >= s.X[i-1]) {
				return fmt.Errorf("%s goes back from %v to %v", s.Name, s.X[i-1], s.X[i])
			}
		}
	}
	return nil
}

// rows are the names of the lines of bars.
func (c Chart) rows() []string {
	var rows []string
	for _, b := range c.Bands {
		if b.Row != "" && !slices.Contains(rows, b.Row) {
			rows = append(rows, b.Row)
		}
	}
	return rows
}

// span is what the X axis shows.
func (c Chart) span() (from, to float64) {
	from, to = math.Inf(1), math.Inf(-1)
	for _, s := range c.Series {
		from, to = min(from, s.X[0]), max(to, s.X[len(s.X)-1])
	}
	for _, b := range c.Bands {
		from, to = min(from, b.From), max(to, b.To)
	}
	if from == to {
		to++
	}
	return from, to
}

// percent is what a point of the page's height is on the Y axis.
const percent = 100. / linesHeight

// below is where the Y axis begins so that n rows have room under 0 %.
func below(n int) float64 {
	if n == 0 {
		return -2
	}
	return middle(n-1) - rowHeight*percent*.6
}

// middle is where row i is on the Y axis.
func middle(i int) float64 { return -(float64(i) + 1) * rowHeight * percent }

// percents has a mark each 20 %, and the names of the rows beside them.
func percents(rows []string) plot.ConstantTicks {
	var ticks plot.ConstantTicks
	for y := 0; y <= 100; y += 20 {
		ticks = append(ticks, plot.Tick{Value: float64(y), Label: strconv.Itoa(y) + " %"})
	}
	for i, name := range rows {
		ticks = append(ticks, plot.Tick{Value: middle(i), Label: name})
	}
	return ticks
}

// even has a mark each round number of minutes or seconds, at most 16.
func even(from, to float64) plot.ConstantTicks {
	step := 1.
	for _, s := range []float64{1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 1800, 3600} {
		if step = s; (to-from)/s <= 15 {
			break
		}
	}
	var ticks plot.ConstantTicks
	for x := math.Ceil(from/step) * step; x <= to; x += step {
		ticks = append(ticks, plot.Tick{Value: x, Label: strconv.FormatFloat(x, 'f', -1, 64)})
	}
	return ticks
}

// styleOf is how series i is drawn. What lies under another line shows through its
// gaps. The colours are those of Okabe and Ito, which colour-blind readers tell
// apart.
func styleOf(i int) draw.LineStyle {
	colours := []rgb{0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9, 0x404040}
	gaps := [][]vg.Length{nil, {6, 3}, {2, 2}, {9, 3, 2, 3}, {4, 6}, {12, 4}, {1, 3}}
	style := draw.LineStyle{Color: colours[i%len(colours)], Width: 1.8, Dashes: gaps[i%len(gaps)]}
	if i == 0 {
		style.Width = 2.6
	}
	return style
}

// rgb is a colour, 0xRRGGBB.
type rgb uint32

const (
	ink   rgb = 0x202020
	grey  rgb = 0x606060
	light rgb = 0xd8d8d8
	bar   rgb = 0xf0b4a8
)

// RGBA is color.Color's.
func (c rgb) RGBA() (r, g, b, a uint32) {
	of := func(shift int) uint32 { return (uint32(c) >> shift & 0xff) * 0x101 }
	return of(16), of(8), of(0), 0xffff
}

func sans(size vg.Length) font.Font {
	return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
}
