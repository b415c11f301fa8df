package main

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// progress is a bar on a terminal for what takes longer than a second. It is not
// safe for concurrent use.
type progress struct {
	w     io.Writer // nil: nobody looks
	what  string
	began time.Time
	drawn time.Time
}

func (e *Env) newProgress(what string) *progress {
	p := &progress{what: what, began: time.Now()}
	if e.StderrTerminal {
		p.w = e.Stderr
	}
	return p
}

// set draws how much is done, a few times a second.
func (p *progress) set(done, total int64) {
	now := time.Now()
	if p.w == nil || total <= 0 || now.Sub(p.began) < time.Second || now.Sub(p.drawn) < 200*time.Millisecond {
		return
	}
	p.drawn = now
	const width = 30
	share := min(1, float64(done)/float64(total))
	left := "?"
	if share > 0 {
		left = duration(time.Duration(float64(now.Sub(p.began)) * (1 - share) / share))
	}
	fmt.Fprintf(p.w, "\r%s [%-*s] %3.0f %%, %s left\x1b[K", p.what, width, strings.Repeat("#", int(share*width)), share*100, left)
}

// end removes the bar.
func (p *progress) end() {
	if p.w != nil && !p.drawn.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
