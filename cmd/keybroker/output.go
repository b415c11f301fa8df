package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// The values of --output.
const (
	outputText = "text"
	outputJSON = "json"
)

// printMessage prints an answer as JSON: the API's field names, bytes in base64,
// 64-bit numbers as strings (the JSON form of proto3), and always the same white
// space.
func (e *Env) printMessage(m proto.Message) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	defer clear(text)
	return e.printIndented(text)
}

// printKey is printMessage for an answer that has a key, with the context that a
// wrapped key is bound to beside it, where rewrap finds it. Without is left out.
func (e *Env) printKey(m proto.Message, context pairs, without ...string) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	defer clear(text)
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return err
	}
	for _, member := range without {
		delete(members, member)
	}
	if len(context) > 0 {
		if members["context"], err = json.Marshal(context); err != nil {
			return err
		}
	}
	all, err := json.Marshal(members)
	for _, member := range members {
		clear(member)
	}
	if err != nil {
		return err
	}
	defer clear(all)
	return e.printIndented(all)
}

func (e *Env) printIndented(text []byte) error {
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return err
	}
	out.WriteByte('\n')
	defer func() { clear(out.Bytes()) }()
	_, err := e.Stdout.Write(out.Bytes())
	return err
}

// printJSON prints v as JSON.
func (e *Env) printJSON(v any) error {
	enc := json.NewEncoder(e.Stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// style is how a cell looks on a terminal.
type style string

const (
	plain style = ""
	bold  style = "\x1b[1m"
	good  style = "\x1b[32m"
	warn  style = "\x1b[33m"
	bad   style = "\x1b[31m"
)

type cell struct {
	text  string
	style style
}

// table is columns of text, aligned, the last one ragged.
type table struct{ rows [][]cell }

// head adds the row of titles.
func (t *table) head(titles ...string) {
	row := make([]cell, len(titles))
	for i, s := range titles {
		row[i] = cell{s, bold}
	}
	t.rows = append(t.rows, row)
}

// row adds a row of strings and cells.
func (t *table) row(cells ...any) {
	row := make([]cell, len(cells))
	for i, c := range cells {
		switch c := c.(type) {
		case cell:
			row[i] = cell{visible(c.text), c.style}
		default:
			row[i] = cell{text: visible(fmt.Sprint(c))}
		}
	}
	t.rows = append(t.rows, row)
}

// visible keeps text that somebody else wrote from steering the terminal: what
// cannot be seen becomes U+FFFD.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// render returns the table's lines.
func (t *table) render(colour bool) string {
	var widths []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		for i, c := range row {
			if colour && c.style != plain && c.text != "" {
				b.WriteString(string(c.style) + c.text + "\x1b[0m")
			} else {
				b.WriteString(c.text)
			}
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (e *Env) printTable(t *table) error {
	_, err := fmt.Fprint(e.Stdout, t.render(e.colour()))
	return err
}

// duration writes d with its two greatest units.
func duration(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", int(d.Minutes()), int(d.Seconds())%60)
	case d >= time.Second:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	default:
		return fmt.Sprintf("%dms", d.Milliseconds())
	}
}

// counting writes a number of things.
func counting[N int | uint32 | uint64](n N, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// bytesText writes a number of bytes.
func bytesText(n uint64) string {
	switch {
	case n >= 1<<40:
		return fmt.Sprintf("%.4g TiB", float64(n)/(1<<40))
	case n >= 1<<30:
		return fmt.Sprintf("%.4g GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.4g MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.4g KiB", float64(n)/(1<<10))
	default:
		return fmt.Sprintf("%d B", n)
	}
}
