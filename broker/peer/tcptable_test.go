package peer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"unsafe"
)

const tableHeading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode                                                     \n"

func TestParseSocketRow(t *testing.T) {
	const established4 = "  21: 0100007F:9C95 0100007F:CFE6 01 00000000:00000000 02:00000060 00000000  1001        0 12335232 2 00000000d0cd019f 22 4 21 18 -1                 "
	for name, tc := range map[string]struct {
		line          string
		local, remote string
		row           socketRow
		ok            bool
	}{
		"established": {established4, "0100007F:9C95", "0100007F:CFE6", socketRow{1, 1001, 12335232}, true},
		"listening": {"   0: 0100007F:9249 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12334668 2 00000000c0e71054 100 0 0 10 0                  ",
			"0100007F:9249", "00000000:0000", socketRow{10, 0, 12334668}, true},
		"in TIME_WAIT": {"  10: 0100007F:A4DF 0100007F:D9C2 06 00000000:00000000 03:000016CA 00000000     0        0 0 3 00000000e93609e0                                      ",
			"0100007F:A4DF", "0100007F:D9C2", socketRow{6, 0, 0}, true},
		"IPv6": {"   3: 00000000000000000000000001000000:9C95 00000000000000000000000001000000:CFE6 01 00000000:00000000 02:00000060 00000000 4294967293        0 18446744073709551615 2 0 22 4 21 18 -1",
			"00000000000000000000000001000000:9C95", "00000000000000000000000001000000:CFE6", socketRow{1, math.MaxUint32 - 2, math.MaxUint64}, true},
		"nothing after the inode":  {"0: a b 01 0 0 0 7 0 9", "a", "b", socketRow{1, 7, 9}, true},
		"the heading":              {line: strings.TrimSuffix(tableHeading, "\n")},
		"nothing":                  {},
		"spaces":                   {line: "          "},
		"cut before the inode":     {line: "0: a b 01 0 0 0 7 0"},
		"a uid that is too large":  {line: "0: a b 01 0 0 0 4294967296 0 9"},
		"a uid below none":         {line: "0: a b 01 0 0 0 -1 0 9"},
		"a uid in hex":             {line: "0: a b 01 0 0 0 1F 0 9"},
		"an inode that is none":    {line: "0: a b 01 0 0 0 7 0 9x"},
		"an inode that overflows":  {line: "0: a b 01 0 0 0 7 0 18446744073709551616"},
		"a state of three digits":  {line: "0: a b 101 0 0 0 7 0 9"},
		"a state in small letters": {line: "0: a b 0a 0 0 0 7 0 9"},
	} {
		t.Run(name, func(t *testing.T) {
			local, remote, row, ok := parseSocketRow([]byte(tc.line))
			if string(local) != tc.local || string(remote) != tc.remote || row != tc.row || ok != tc.ok {
				t.Errorf("%q %q %+v %v", local, remote, row, ok)
			}
		})
	}
}

func TestTableAddress(t *testing.T) {
	little := [2]byte{1, 0}
	if *(*uint16)(unsafe.Pointer(&little)) != 1 {
		t.Skip("the addresses below are of a little-endian host")
	}
	for name, tc := range map[string]struct {
		at     string
		mapped bool
		want   string
	}{
		"IPv4":                 {"127.0.0.1:8080", false, "0100007F:1F90"},
		"IPv4 in IPv6":         {"127.0.0.1:8080", true, "0000000000000000FFFF00000100007F:1F90"},
		"mapped IPv4":          {"[::ffff:127.0.0.1]:1", false, "0100007F:0001"},
		"mapped IPv4, in IPv6": {"[::ffff:10.1.2.3]:65535", true, "0000000000000000FFFF00000302010A:FFFF"},
		"IPv6":                 {"[::1]:8080", true, "00000000000000000000000001000000:1F90"},
		"IPv6, all bytes":      {"[2001:db8:1:2:3:4:5:6]:8080", true, "B80D0120020001000400030006000500:1F90"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tableAddress(netip.MustParseAddrPort(tc.at), tc.mapped); string(got) != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

// tableLine is a line of a table.
func tableLine(local, remote string, row socketRow) string {
	return fmt.Sprintf("%4d: %s %s %02X 00000000:00000000 00:00000000 00000000 %5d        0 %d 2 0000000000000000 20 4 30 10 -1\n", 7, local, remote, row.state, row.uid, row.inode)
}

func TestFindBothEnds(t *testing.T) {
	theirs, ours := socketRow{established, 1001, 5}, socketRow{established, 0, 6}
	mine, yours := tableLine("A:1", "B:2", theirs), tableLine("B:2", "A:1", ours)
	var others strings.Builder
	for i := range 500 {
		others.WriteString(tableLine(fmt.Sprint("A:", i), fmt.Sprint("B:", i+3), socketRow{established, 7, 8}))
	}
	long := strings.Repeat("x", 3*maxTableLine)
	for name, tc := range map[string]struct {
		table        string
		theirs, ours bool
	}{
		"both":                      {tableHeading + others.String() + mine + others.String() + yours, true, true},
		"the other way round":       {yours + mine, true, true},
		"one":                       {tableHeading + mine + others.String(), true, false},
		"the other":                 {tableHeading + others.String() + yours, false, true},
		"none":                      {tableHeading + others.String(), false, false},
		"empty":                     {"", false, false},
		"torn":                      {yours + strings.TrimSuffix(mine, "\n"), false, true},
		"in TIME_WAIT":              {tableLine("A:1", "B:2", socketRow{timeWait, 0, 0}) + yours, false, true},
		"TIME_WAIT before":          {tableLine("A:1", "B:2", socketRow{timeWait, 0, 0}) + yours + mine, true, true},
		"after a line too long":     {long + "\n" + mine + yours, true, true},
		"at the end of a long line": {long + mine + yours, false, true},
		"a line too long at last":   {mine + yours[:1] + long, true, false},
		"another remote":            {tableLine("A:1", "B:22", theirs) + yours, false, true},
		"empty lines":               {"\n\n" + mine + "\n" + yours, true, true},
	} {
		for how, reader := range map[string]func(io.Reader) io.Reader{
			"whole": func(r io.Reader) io.Reader { return r }, "by bytes": iotest.OneByteReader, "by halves": iotest.HalfReader, "with its end": iotest.DataErrReader,
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				var ends bothEnds
				if err := ends.find(reader(strings.NewReader(tc.table)), []byte("A:1"), []byte("B:2")); err != nil {
					t.Fatal(err)
				}
				if (ends.theirs != nil) != tc.theirs || (ends.ours != nil) != tc.ours ||
					tc.theirs && *ends.theirs != theirs || tc.ours && *ends.ours != ours {
					t.Errorf("%+v %+v", ends.theirs, ends.ours)
				}
			})
		}
	}
}

func TestFindFails(t *testing.T) {
	var ends bothEnds
	broken := errors.New("broken")
	if err := ends.find(io.MultiReader(strings.NewReader(tableHeading), iotest.ErrReader(broken)), []byte("A:1"), []byte("B:2")); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
}

// endless is a table that does not end.
type endless struct {
	line string
	read int64
}

func (e *endless) Read(p []byte) (n int, err error) {
	for n < len(p) {
		n += copy(p[n:], e.line[(e.read+int64(n))%int64(len(e.line)):])
	}
	e.read += int64(n)
	return n, nil
}

// However long a table is, it is read so far and no further, and in no memory.
func TestFindIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("reads a table of 96 MiB")
	}
	table := &endless{line: tableLine("A:1", "B:3", socketRow{established, 7, 8})}
	var ends bothEnds
	if err := ends.find(table, []byte("A:1"), []byte("B:2")); !errors.Is(err, errTableTooLong) {
		t.Errorf("%v", err)
	}
	if table.read > maxTable {
		t.Errorf("%d bytes were read", table.read)
	}
}

func TestFindDoesNotAllocateForALine(t *testing.T) {
	allocations := func(lines int) float64 {
		text := tableHeading + strings.Repeat(tableLine("A:1", "B:3", socketRow{established, 7, 8}), lines)
		return testing.AllocsPerRun(10, func() {
			var ends bothEnds
			if err := ends.find(strings.NewReader(text), []byte("A:1"), []byte("B:2")); err != nil {
				t.Fatal(err)
			}
		})
	}
	if few, many := allocations(1), allocations(1000); many > few {
		t.Errorf("%v allocations for a line, %v for a thousand", few, many)
	}
}

// Whatever the table holds, what is found is in a line of it, as another parser
// reads it.
func FuzzFindBothEnds(f *testing.F) {
	if seeds, err := os.ReadDir("testdata/fuzz/FuzzFindBothEnds"); err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	f.Fuzz(func(t *testing.T, table []byte) {
		const theirs, ours = "0100007F:1F90", "0100007F:0001"
		var want bothEnds
		lines := strings.SplitAfter(string(table), "\n")
		for _, line := range lines {
			if want.complete() {
				break
			}
			line, ended := strings.CutSuffix(line, "\n")
			fields := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' })
			if !ended || len(line) >= maxTableLine || len(fields) < 10 {
				continue
			}
			var row socketRow
			if !number(fields[3], 16, 8, func(n uint64) { row.state = uint8(n) }) ||
				!number(fields[7], 10, 32, func(n uint64) { row.uid = uint32(n) }) ||
				!number(fields[9], 10, 64, func(n uint64) { row.inode = n }) || row.state == timeWait {
				continue
			}
			switch {
			case fields[1] == theirs && fields[2] == ours:
				want.theirs = &row
			case fields[1] == ours && fields[2] == theirs:
				want.ours = &row
			}
		}
		var got bothEnds
		if err := got.find(iotest.HalfReader(bytes.NewReader(table)), []byte(theirs), []byte(ours)); err != nil {
			t.Fatal(err)
		}
		if !sameRow(got.theirs, want.theirs) || !sameRow(got.ours, want.ours) {
			t.Errorf("%+v %+v, want %+v %+v", got.theirs, got.ours, want.theirs, want.ours)
		}
	})
}

func sameRow(a, b *socketRow) bool {
	return (a == nil) == (b == nil) && (a == nil || *a == *b)
}

// number is what fmt reads, of digits and capitals alone.
func number(s string, base, bits int, set func(uint64)) bool {
	if strings.Trim(s, "0123456789ABCDEF") != "" || base == 10 && strings.Trim(s, "0123456789") != "" {
		return false
	}
	var n uint64
	verb := map[int]string{10: "%d", 16: "%X"}[base]
	if _, err := fmt.Sscanf(s, verb, &n); err != nil || bits < 64 && n >= 1<<bits {
		return false
	}
	set(n)
	return true
}
