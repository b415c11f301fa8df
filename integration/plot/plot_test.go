package plot_test

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/integration/plot"
)

func line(name string, y ...float64) plot.Series {
	s := plot.Series{Name: name, Y: y}
	for i := range y {
		s.X = append(s.X, float64(i))
	}
	return s
}

// textOf is all text in an SVG, which has to be well-formed.
func textOf(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, text := xml.NewDecoder(f), strings.Builder{}
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return text.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		if s, ok := token.(xml.CharData); ok {
			_, _ = text.Write(s)
		}
	}
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.svg")
	c := plot.Chart{
		Title: "Errors & faults", XLabel: "minutes", YLabel: "errors",
		Series: []plot.Series{line("as it is", 0, 100, 0), line("a <short> cache", 0, 0, 50)},
		Bands: []plot.Band{
			{From: 0, To: 1, Label: "all gone"},
			{From: 0, To: 2, Label: "refused", Row: "vault"}, {From: 0, To: 0.5, Label: "slow", Row: "aws"},
		},
	}
	if err := plot.Write(path, c); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := textOf(t, path)
	for _, want := range []string{
		"Errors & faults", "minutes", "errors", "as it is", "a <short> cache",
		"all gone", "refused", "slow", "vault", "aws", "100 %",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the picture: %q", want, text)
		}
	}
	if err := plot.Write(path, c); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(path); err != nil || string(again) != string(first) {
		t.Errorf("the same chart is another file (%v)", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	for name, s := range map[string][]plot.Series{
		"no series":          nil,
		"no point":           {{Name: "a"}},
		"X without Y":        {{Name: "a", X: []float64{1, 2}, Y: []float64{1}}},
		"more than a whole":  {line("a", 101)},
		"not a number":       {line("a", math.NaN())},
		"X that goes back":   {{Name: "a", X: []float64{2, 1}, Y: []float64{1, 1}}},
		"X that is no place": {{Name: "a", X: []float64{math.NaN(), 1}, Y: []float64{1, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "c.svg")
			if err := plot.Write(path, plot.Chart{Series: s}); err == nil {
				t.Error("it is drawn")
			}
			if _, err := os.Stat(path); err == nil {
				t.Error("a file is left")
			}
		})
	}
}
