package peer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// look is what the kernel shows at one look.
type look struct {
	// Other than nil: the rows of the connection, or an error.
	theirs, ours *socketRow
	err          error
}

// What the kernel shows can change between one look and the next, and it may not
// be of this connection at all.
func TestTCPLooks(t *testing.T) {
	const inode, uid = 77, 1001
	row := func(state uint8, uid uint32, inode uint64) *socketRow { return &socketRow{state, uid, inode} }
	const finWait1, closeWait = 0x04, 0x08
	here := look{theirs: row(established, uid, inode), ours: row(established, 0, 0)} // ours gets the true inode
	closing := look{theirs: row(established, 0, inode), ours: here.ours}
	orphan := look{theirs: row(established, 0, 0), ours: here.ours}
	closed := look{theirs: row(finWait1, 0, 0), ours: here.ours}
	missed := look{ours: here.ours}
	half := look{theirs: here.theirs}
	for name, tc := range map[string]struct {
		looks   []look // the last one for ever
		known   bool
		refused error
		logged  string
	}{
		"twice the same":                 {looks: []look{here}, known: true},
		"closed":                         {looks: []look{closed}},
		"closed while it was shown":      {looks: []look{closing, closed}},
		"closed, and without a process":  {looks: []look{orphan}},
		"closed after the first look":    {looks: []look{here, closed}},
		"missed at first":                {looks: []look{missed, here}, known: true},
		"missed between":                 {looks: []look{here, missed, here}, known: true},
		"our end missed":                 {looks: []look{half, here}, known: true},
		"another socket each time":       {looks: []look{here, {theirs: row(established, uid, inode+1), ours: here.ours}, here, {theirs: row(established, uid, inode+1), ours: here.ours}}, logged: "was missed"},
		"another user each time":         {looks: []look{here, {theirs: row(established, 7, inode), ours: here.ours}, here, {theirs: row(established, 7, inode), ours: here.ours}}, logged: "was missed"},
		"always missed":                  {looks: []look{missed}, logged: "network namespace"},
		"never there":                    {looks: []look{{}}, logged: "network namespace"},
		"ours is another connection's":   {looks: []look{{theirs: here.theirs, ours: row(established, 0, 5)}}},
		"ours is closed":                 {looks: []look{{theirs: here.theirs, ours: row(closeWait, 0, 0)}}},
		"no such table":                  {looks: []look{{err: fs.ErrNotExist}}, logged: "file does not exist"},
		"not readable":                   {looks: []look{{err: unix.EIO}}, logged: "input/output error"},
		"no more files":                  {looks: []look{{err: unix.EMFILE}}, refused: unix.EMFILE},
		"no more files at a second look": {looks: []look{here, {err: unix.ENFILE}}, refused: unix.ENFILE},
		"no memory":                      {looks: []look{{err: unix.ENOMEM}}, refused: unix.ENOMEM},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var text bytes.Buffer
			var refused []error
			local := LocalTCP(l, Options{
				Logger:  slog.New(slog.NewTextHandler(&text, nil)),
				Refused: func(_ Identity, err error) { refused = append(refused, err) },
			})
			defer local.Close()
			dial, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer dial.Close()
			local.kernel.askSockets = noDiag
			real := local.kernel.openTable
			looks := 0
			local.kernel.openTable = func(name string) (io.ReadCloser, error) {
				if name == "tcp6" {
					return nil, fs.ErrNotExist
				}
				shown := tc.looks[min(looks, len(tc.looks)-1)]
				looks++
				if shown.err != nil {
					return nil, &os.PathError{Op: "open", Path: "/proc/self/net/" + name, Err: shown.err}
				}
				theirs, ours := tableAddress(addrPort(dial.LocalAddr()), false), tableAddress(addrPort(l.Addr()), false)
				table := tableHeading
				if shown.theirs != nil {
					table += tableLine(string(theirs), string(ours), *shown.theirs)
				}
				if shown.ours != nil {
					row := *shown.ours
					if row.inode == 0 {
						row.inode = trueInode(t, real, ours, theirs)
					}
					table += tableLine(string(ours), string(theirs), row)
				}
				return io.NopCloser(strings.NewReader(table)), nil
			}
			if tc.refused != nil {
				// The refused one is followed by one that is not.
				next, err := net.Dial("tcp", l.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				defer next.Close()
				accepting := local.kernel.openTable
				local.kernel.openTable = func(name string) (io.ReadCloser, error) {
					if len(refused) > 0 {
						return real(name)
					}
					return accepting(name)
				}
			}
			conn, err := local.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			id := TCPIdentity(conn)
			if tc.refused != nil {
				if len(refused) != 1 || !errors.Is(refused[0], tc.refused) || !id.UIDKnown {
					t.Errorf("refused %v, then %+v", refused, id)
				}
				return
			}
			if want := (Identity{Network: AWS, Addr: dial.LocalAddr().String()}); !tc.known {
				if fmt.Sprint(id) != fmt.Sprint(want) || id.UID != 0 || id.UIDKnown {
					t.Errorf("%+v", id)
				}
			} else if id.UID != uid || !id.UIDKnown {
				t.Errorf("%+v", id)
			}
			if (tc.logged == "") != (text.Len() == 0) || !strings.Contains(text.String(), tc.logged) || len(refused) != 0 {
				t.Errorf("refused %v, logged: %s", refused, text.String())
			}
			if looks > maxLooks {
				t.Errorf("%d looks", looks)
			}
		})
	}
}

// noDiag is a kernel without sock_diag(7).
func noDiag(netip.AddrPort, netip.AddrPort) (bothEnds, error) {
	return bothEnds{}, diagError(unix.EAFNOSUPPORT)
}

// trueInode is the inode of the end at ours in the true table.
func trueInode(t *testing.T, open func(string) (io.ReadCloser, error), ours, theirs []byte) uint64 {
	t.Helper()
	f, err := open("tcp")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var ends bothEnds
	if err := ends.find(f, theirs, ours); err != nil || ends.ours == nil {
		t.Fatalf("%+v, %v", ends, err)
	}
	return ends.ours.inode
}

// Which uid the kernel shows for those that it cannot name can be set.
func TestTCPOverflowUIDBySysctl(t *testing.T) {
	own := uint32(os.Geteuid())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	local := LocalTCP(l, Options{})
	defer local.Close()
	local.kernel.overflowUID = own
	dial, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dial.Close()
	conn, err := local.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if id := TCPIdentity(conn); !id.UIDKnown || id.UID != own || !id.UIDOverflow {
		t.Errorf("%+v", id)
	}
}
