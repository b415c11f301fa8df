package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/audit/verify"
)

// verification is what the flags of audit verify say.
type verification struct {
	head, pubkey                   string
	checkpoints, fromURLs, anchors []string
}

func newAuditVerifyCommand(env *Env, opts *options) *cobra.Command {
	var flags verification
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Find any changed, removed, inserted or reordered audit record",
		Long: `Check the files of an audit log, in any order, compressed or not, without a running
broker: every record's hash, that each names the one before it, across files, and
the signatures of the log's checkpoints. Whatever is wrong is told with its file,
line and record number, and the exit code is 5.

The log itself says which keys have signed it. Whether these are the broker's,
--pubkey shows: a public key that you have from elsewhere must have signed a
checkpoint in the files, and each key after it must have been announced by the one
before.

--anchor compares the log with what a place outside the host has kept of it: signed
checkpoints, one after the other or in JSON; AWS CloudTrail's events; or the lines of
a Vault audit device. Logs of other brokers may stand in the same file.

The last line it prints is the log's head. Keep it, or a checkpoint of the broker's,
where whoever can write the log cannot: given as --head or --checkpoint later, it
shows that no record was cut off since, and that the log was not written anew.`,
		Example: `  keybroker audit verify /var/log/keybroker/audit.jsonl*
  keybroker audit verify --head 1204:9f86d081… /var/log/keybroker/audit.jsonl*
  keybroker audit verify --pubkey n1.pub --checkpoint n1-july.txt audit.jsonl*
  keybroker audit verify --anchor vault-audit.log --anchor cloudtrail.json.gz audit.jsonl*`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			o, err := env.verifyOptions(cmd.Context(), &flags)
			if err != nil {
				return err
			}
			bar := env.newProgress("verifying")
			o.Progress = bar.set
			r, err := verify.Files(cmd.Context(), files, o)
			bar.end()
			if errors.Is(err, fs.ErrNotExist) {
				return usageError(err)
			}
			if err != nil {
				return err
			}
			return env.printVerified(r, &o, opts)
		},
	}
	cmd.Flags().StringVar(&flags.head, "head", "", "`SEQ:HASH` of a record that the log is known to have")
	cmd.Flags().StringVar(&flags.pubkey, "pubkey", "", "public `KEY` that has signed the log, keybroker.audit+…, or a file that holds it")
	cmd.Flags().StringArrayVar(&flags.checkpoints, "checkpoint", nil, "`FILE` with a checkpoint that the log is known to have, - for standard input; can be repeated")
	cmd.Flags().StringArrayVar(&flags.fromURLs, "from-url", nil, "get a checkpoint from `URL`, such as the broker's own /audit/checkpoint; can be repeated")
	cmd.Flags().StringArrayVar(&flags.anchors, "anchor", nil, "`FILE` with what a place outside the host has kept of the log, - for standard input; can be repeated")
	return cmd
}

// verifyOptions reads what the flags name. Checkpoints come before the files are
// read, so a broker that writes meanwhile has written their records.
func (e *Env) verifyOptions(ctx context.Context, flags *verification) (o verify.Options, err error) {
	if flags.head != "" {
		head, err := parseHead(flags.head)
		if err != nil {
			return o, usageError(err)
		}
		o.ExpectHead = &head
	}
	if flags.pubkey != "" {
		if o.Key, err = e.readPublicKey(flags.pubkey); err != nil {
			return o, err
		}
	}
	for _, name := range flags.checkpoints {
		text, err := e.read(name, "a checkpoint")
		if err != nil {
			return o, err
		}
		cp, err := verify.ParseCheckpoint(name, text)
		if err != nil {
			return o, usageError(fmt.Errorf("%s is not a checkpoint of an audit log: %w", source(name), err))
		}
		o.Checkpoints = append(o.Checkpoints, cp)
	}
	for _, address := range flags.fromURLs {
		u, err := checkpointURL(address)
		if err != nil {
			return o, usageError(fmt.Errorf("--from-url: %w", err))
		}
		text, err := fetchCheckpoint(ctx, u)
		if err != nil {
			return o, err
		}
		cp, err := verify.ParseCheckpoint(u.Redacted(), text)
		if err != nil {
			return o, fmt.Errorf("what %s answers is not a checkpoint of an audit log: %w", u.Redacted(), err)
		}
		o.Checkpoints = append(o.Checkpoints, cp)
	}
	for _, name := range flags.anchors {
		a, err := e.readAnchors(ctx, name)
		if err != nil {
			return o, err
		}
		o.Anchors = append(o.Anchors, a)
	}
	return o, nil
}

// readAnchors reads a file of any size.
func (e *Env) readAnchors(ctx context.Context, name string) (*verify.Anchors, error) {
	in := e.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, usageError(err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	a, err := verify.ReadAnchors(ctx, source(name), in)
	if err != nil {
		return nil, usageError(fmt.Errorf("%s cannot be read: %w", source(name), err))
	}
	return a, nil
}

// readPublicKey reads a key, or a file that holds one.
func (e *Env) readPublicKey(s string) (*verify.Key, error) {
	key, err := verify.ParseKey(s)
	if err == nil {
		return key, nil
	}
	if strings.HasPrefix(s, "keybroker.audit+") {
		return nil, usageError(fmt.Errorf("--pubkey %q: %w", s, err))
	}
	text, err := e.read(s, "a public key")
	if err != nil {
		return nil, err
	}
	if key, err = verify.ParseKey(strings.TrimSpace(string(text))); err != nil {
		return nil, usageError(fmt.Errorf("%s does not hold one public key of an audit log: %w", source(s), err))
	}
	return key, nil
}

func parseHead(s string) (verify.Head, error) {
	wrong := fmt.Errorf("--head %q: want a record's number, a colon and its hash in 64 hex digits", s)
	number, hash, _ := strings.Cut(s, ":")
	seq, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return verify.Head{}, wrong
	}
	b, err := hex.DecodeString(hash)
	if err != nil || len(b) != len(verify.Head{}.Hash) {
		return verify.Head{}, wrong
	}
	return verify.Head{Seq: seq, Hash: [32]byte(b)}, nil
}

// verified is a verification in JSON.
type verified struct {
	OK       bool      `json:"ok"`
	LogID    string    `json:"log"`
	Files    int       `json:"files"`
	Records  uint64    `json:"records"`
	FirstSeq uint64    `json:"first_seq"`
	Head     string    `json:"head"`
	Lost     uint64    `json:"lost"`
	Signed   *signed   `json:"signed"`             // null if nothing is
	Anchored *anchored `json:"anchored,omitempty"` // of --anchor
	Problems []finding `json:"problems"`
	Notes    []finding `json:"notes"`
}

type signed struct {
	Seq         uint64    `json:"seq"`
	Time        time.Time `json:"time"`
	Checkpoints uint64    `json:"checkpoints"`
	Keys        int       `json:"keys"`
	FirstKey    string    `json:"first_key"`
	LastKey     string    `json:"last_key"`
	CurrentKey  string    `json:"current_key"`
	Unsigned    uint64    `json:"unsigned"`
	// KeyGiven: the first key is one that was given, not the log's own word.
	KeyGiven bool `json:"key_given"`
}

type anchored struct {
	Heads  int    `json:"heads"`
	Older  int    `json:"older"`
	Latest string `json:"latest"`
}

type finding struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	Seq  uint64 `json:"seq,omitempty"`
	What string `json:"what"`
}

func findings(fs []verify.Finding) []finding {
	out := []finding{}
	for _, f := range fs {
		out = append(out, finding(f))
	}
	return out
}

func (e *Env) printVerified(r *verify.Result, o *verify.Options, opts *options) error {
	keyGiven := o.Key != nil
	head := fmt.Sprintf("%d:%x", r.Head.Seq, r.Head.Hash)
	if opts.output == outputJSON {
		var by *signed
		if s := r.Signed; s.Seq > 0 {
			by = &signed{s.Seq, s.Time, s.Checkpoints, s.Keys, s.First.String(), s.Last.String(), s.Current.String(), s.Unsigned, keyGiven}
		}
		if err := e.printJSON(verified{
			Anchored: anchoredOf(r, o), OK: r.OK(), LogID: r.LogID, Files: r.Files, Records: r.Records, FirstSeq: r.FirstSeq, Head: head, Lost: r.Lost, Signed: by,
			Problems: findings(r.Problems), Notes: findings(r.Notes),
		}); err != nil {
			return err
		}
	} else {
		for _, f := range r.Notes {
			fmt.Fprintln(e.Stdout, "note:", visible(f.String()))
		}
		if more := r.NoteCount - len(r.Notes); more > 0 {
			fmt.Fprintf(e.Stdout, "note: and %d more\n", more)
		}
		if a := r.Anchored; a.Heads > 0 {
			fmt.Fprintf(e.Stdout, "anchored: %s of this log, the latest of record %d\n", counting(uint64(a.Heads), "head"), a.Latest.Seq)
		}
		for _, f := range r.Problems {
			fmt.Fprintln(e.Stdout, "PROBLEM:", visible(f.String()))
		}
		if more := r.ProblemCount - len(r.Problems); more > 0 {
			fmt.Fprintf(e.Stdout, "PROBLEM: and %d more\n", more)
		}
		if r.OK() {
			fmt.Fprintf(e.Stdout, "whole: %s, %d to %d, in %s of log %s\n%s\nhead %s\n",
				counting(r.Records, "record"), r.FirstSeq, r.Head.Seq, counting(r.Files, "file"), visible(r.LogID), signedText(&r.Signed, keyGiven), head)
		}
	}
	if !r.OK() {
		return verificationError(fmt.Errorf("the audit log is not whole: %s; keep the files as evidence", counting(r.ProblemCount, "problem")))
	}
	return nil
}

// anchoredOf is nil if there was nothing to be compared.
func anchoredOf(r *verify.Result, o *verify.Options) *anchored {
	if len(o.Anchors) == 0 {
		return nil
	}
	a := r.Anchored
	return &anchored{a.Heads, a.Older, fmt.Sprintf("%d:%x", a.Latest.Seq, a.Latest.Hash)}
}

// signedText says for people how far a log is signed.
func signedText(s *verify.Signed, keyGiven bool) string {
	if s.Seq == 0 {
		return "not signed: the files hold no checkpoint"
	}
	by := "key " + s.Last.ID()
	if s.Keys > 1 {
		by = fmt.Sprintf("%d keys, %s → %s", s.Keys, s.First.ID(), s.Last.ID())
	}
	text := fmt.Sprintf("signed up to record %d (%s), by %s", s.Seq, s.Time.Format(time.RFC3339), by)
	if s.Unsigned > 0 {
		text += fmt.Sprintf("; %s after it not yet", counting(s.Unsigned, "record"))
	}
	if !keyGiven {
		text += "; that the first key is the broker's is the log's own word (--pubkey)"
	}
	return text
}
