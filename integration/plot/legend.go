package plot

import (
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// legend is under the chart: a sample of each line and its name, in rows.
type legend []Series

const (
	sample   = 28 // of a line
	entryGap = 18
	lineStep = 16
)

// places calls put with the place of each entry: from the left, and the row from
// the top.
func (l legend) places(put func(i int, x vg.Length, row int)) (rows int) {
	style, x := label(fontSize), vg.Length(0)
	for i, s := range l {
		needs := sample + 6 + widthOf(style, s.Name)
		if x > 0 && x+needs > width-2*margin {
			x = 0
			rows++
		}
		put(i, x, rows)
		x += needs + entryGap
	}
	return rows + 1
}

func (l legend) height() int {
	return lineStep * l.places(func(int, vg.Length, int) {})
}

func (l legend) draw(c draw.Canvas) {
	style, top := label(fontSize), c.Min.Y+vg.Length(l.height())-lineStep/2
	l.places(func(i int, x vg.Length, row int) {
		y := top - vg.Length(row*lineStep)
		c.StrokeLine2(styleOf(i), c.Min.X+x, y, c.Min.X+x+sample, y)
		c.FillText(style, vg.Point{X: c.Min.X + x + sample + 6, Y: y}, l[i].Name)
	})
}
