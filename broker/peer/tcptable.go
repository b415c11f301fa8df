package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// The states of a TCP socket that matter here (include/net/tcp_states.h).
const (
	established = 0x01
	timeWait    = 0x06
)

// maxTable is how much of a table is read, in bytes: room for half a million
// sockets. It bounds what one caller costs.
const maxTable = 96 << 20

// maxTableLine is longer than any line of a table, which is 150 bytes for IPv4
// and less than 200 for IPv6.
const maxTableLine = 512

var errTableTooLong = fmt.Errorf("the table of sockets is longer than %d MiB; use the unix socket on a host with this many connections", maxTable>>20)

// socketRow is what a table says of a socket.
type socketRow struct {
	state uint8
	uid   uint32
	inode uint64 // 0: no process has it open
}

// parseSocketRow reads a line of /proc/net/tcp or tcp6 (proc_pid_net(5)). local
// and remote are parts of it. ok is false for the heading and for what is no line
// of such a table.
func parseSocketRow(line []byte) (local, remote []byte, row socketRow, ok bool) {
	// sl local remote st tx:rx tr:when retrnsmt uid timeout inode …
	var fields [10][]byte
	for i := range fields {
		if fields[i], line = cutField(line); len(fields[i]) == 0 {
			return nil, nil, socketRow{}, false
		}
	}
	state, okState := parseDigits(fields[3], 16, 0xff)
	uid, okUID := parseDigits(fields[7], 10, 1<<32-1)
	inode, okInode := parseDigits(fields[9], 10, 1<<64-1)
	if !okState || !okUID || !okInode {
		return nil, nil, socketRow{}, false
	}
	return fields[1], fields[2], socketRow{state: uint8(state), uid: uint32(uid), inode: inode}, true //nolint:gosec // as bounded
}

// cutField returns the first field of a line, empty if there is none, and what
// follows it.
func cutField(line []byte) (field, rest []byte) {
	line = bytes.TrimLeft(line, " ")
	if i := bytes.IndexByte(line, ' '); i >= 0 {
		return line[:i], line[i:]
	}
	return line, nil
}

// parseDigits is strconv.ParseUint without a copy.
func parseDigits(s []byte, base, most uint64) (n uint64, ok bool) {
	for _, c := range s {
		var digit uint64
		switch {
		case '0' <= c && c <= '9':
			digit = uint64(c - '0')
		case base == 16 && 'A' <= c && c <= 'F':
			digit = uint64(c-'A') + 10
		default:
			return 0, false
		}
		if n > (most-digit)/base {
			return 0, false
		}
		n = n*base + digit
	}
	return n, len(s) > 0
}

// tableAddress writes an address as the tables do: each 32 bits of it as a number
// of this host's byte order, the port as a number. mapped has an IPv4 address as
// it stands in tcp6.
func tableAddress(at netip.AddrPort, mapped bool) []byte {
	addr := at.Addr().Unmap()
	raw := addr.AsSlice()
	if addr.Is4() && mapped {
		as16 := addr.As16() // ::ffff:a.b.c.d
		raw = as16[:]
	}
	text := make([]byte, 0, 2*len(raw)+len(":FFFF"))
	for ; len(raw) >= 4; raw = raw[4:] {
		text = fmt.Appendf(text, "%08X", binary.NativeEndian.Uint32(raw))
	}
	return fmt.Appendf(text, ":%04X", at.Port())
}

// tables are the files under /proc/self/net in which the sockets of a connection
// between two addresses stand. A socket of IPv6 may speak IPv4.
func tables(theirs netip.AddrPort) []socketTable {
	six := socketTable{name: "tcp6", mapped: true}
	if theirs.Addr().Unmap().Is4() {
		return []socketTable{{name: "tcp"}, six}
	}
	return []socketTable{six}
}

type socketTable struct {
	name   string
	mapped bool // IPv4 addresses in it are mapped to IPv6
}

// bothEnds are the sockets of one connection on this host; nil is one that was not
// met.
type bothEnds struct{ theirs, ours *socketRow }

func (e *bothEnds) complete() bool { return e.theirs != nil && e.ours != nil }

// find reads a table until it has both ends of the connection or the table ends.
// It may miss a socket while others come and go, since the kernel gives the table
// in pieces. An end that is in TIME_WAIT belongs to nobody and to an earlier
// connection, so it is not met.
func (e *bothEnds) find(r io.Reader, theirs, ours []byte) error {
	bounded := &io.LimitedReader{R: r, N: maxTable}
	in := bufio.NewReaderSize(bounded, maxTableLine)
	whole := true // whether the line is one from its beginning
	for !e.complete() {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			whole = false
			continue
		case errors.Is(err, io.EOF) && bounded.N == 0:
			return errTableTooLong
		case errors.Is(err, io.EOF):
			return nil // a last line without an end is torn
		case err != nil:
			return err
		case whole:
			e.meet(line[:len(line)-1], theirs, ours)
		}
		whole = true
	}
	return nil
}

func (e *bothEnds) meet(line, theirs, ours []byte) {
	local, remote, row, ok := parseSocketRow(line)
	if !ok || row.state == timeWait {
		return
	}
	switch {
	case bytes.Equal(local, theirs) && bytes.Equal(remote, ours):
		e.theirs = new(row)
	case bytes.Equal(local, ours) && bytes.Equal(remote, theirs):
		e.ours = new(row)
	}
}
