package plot

import (
	"image/color"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// bands is the ground of a chart: its grid, and the faults.
type bands struct {
	all  []Band
	rows []string
}

// Plot draws the ground on c, by the axes of p.
func (b bands) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	box := func(fill color.Color, x0, y0, x1, y1 vg.Length) {
		c.FillPolygon(fill, []vg.Point{{X: x0, Y: y0}, {X: x1, Y: y0}, {X: x1, Y: y1}, {X: x0, Y: y1}})
	}
	for _, band := range b.all {
		shade := color.NRGBA{R: 0xd0, G: 0x30, B: 0x20, A: 0x1c}
		if band.Row != "" { // many, and over one another
			shade.A = 0x0e
		}
		box(shade, x(band.From), y(0), x(band.To), y(102))
	}
	for v := 0.; v <= 100; v += 20 {
		c.StrokeLine2(draw.LineStyle{Color: light, Width: .5}, c.Min.X, y(v), c.Max.X, y(v))
	}
	for i := range b.rows {
		c.StrokeLine2(draw.LineStyle{Color: light, Width: .5}, c.Min.X, y(middle(i)), c.Max.X, y(middle(i)))
	}
	for i, band := range b.all {
		if band.Row == "" {
			c.FillText(label(smallSize), vg.Point{X: x(band.From) + 3, Y: y(94)}, band.Label)
			continue
		}
		at := y(middle(slices.Index(b.rows, band.Row)))
		x0, x1 := x(band.From), max(x(band.To), x(band.From)+1)
		box(bar, x0, at-rowHeight*.38, x1, at+rowHeight*.38)
		b.name(c, band.Label, x0, x1, b.free(i, x, c.Max.X), at)
	}
}

// free is how far to the right of band i nothing else is in its row.
func (b bands) free(i int, x func(float64) vg.Length, end vg.Length) vg.Length {
	for _, other := range b.all {
		if other.Row == b.all[i].Row && other.From >= b.all[i].To {
			end = min(end, x(other.From))
		}
	}
	return end
}

// name writes what a bar from x0 to x1 means: in the bar, else behind it, else as
// much of it as has room.
func (b bands) name(c draw.Canvas, name string, x0, x1, free, at vg.Length) {
	const pad = 2
	style := label(smallSize)
	if w := widthOf(style, name); w > x1-x0-2*pad && w <= free-x1-2*pad {
		c.FillText(style, vg.Point{X: x1 + pad, Y: at}, name)
		return
	}
	cut := []rune(name)
	for len(cut) > 0 && widthOf(style, name) > free-x0-2*pad {
		cut = cut[:len(cut)-1]
		name = string(cut) + "…"
	}
	if len(cut) > 1 {
		c.FillText(style, vg.Point{X: x0 + pad, Y: at}, name)
	}
}

// label is text that begins at a point, at half its height.
func label(size vg.Length) text.Style {
	return text.Style{Color: ink, Font: sans(size), YAlign: text.YCenter, Handler: plot.DefaultTextHandler}
}

// widthOf has some to spare, for a viewer who has another font.
func widthOf(style text.Style, s string) vg.Length { return 1.15 * style.Width(s) }
