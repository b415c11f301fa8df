package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/audit/verify"
)

func newAuditVerifyCommand(env *Env, opts *options) *cobra.Command {
	var head string
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Find any changed, removed, inserted or reordered audit record",
		Long: `Check the files of an audit log, in any order, without a running broker: every
record's hash, and that each names the one before it, across files. Whatever is
wrong is told with its file, line and record number, and the exit code is 5.

The last line it prints is the log's head. Keep it where whoever can write the log
cannot: given as --head later, it shows that no record was cut off since, and that
the log was not written anew.`,
		Example: `  keybroker audit verify /var/log/keybroker/audit.jsonl*
  keybroker audit verify --head 1204:9f86d081… /var/log/keybroker/audit.jsonl*`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			var o verify.Options
			if head != "" {
				expected, err := parseHead(head)
				if err != nil {
					return usageError(err)
				}
				o.ExpectHead = &expected
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
			return env.printVerified(r, opts)
		},
	}
	cmd.Flags().StringVar(&head, "head", "", "`SEQ:HASH` of a record that the log is known to have")
	return cmd
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
	Problems []finding `json:"problems"`
	Notes    []finding `json:"notes"`
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

func (e *Env) printVerified(r *verify.Result, opts *options) error {
	head := fmt.Sprintf("%d:%x", r.Head.Seq, r.Head.Hash)
	if opts.output == outputJSON {
		if err := e.printJSON(verified{
			OK: r.OK(), LogID: r.LogID, Files: r.Files, Records: r.Records, FirstSeq: r.FirstSeq, Head: head, Lost: r.Lost,
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
		for _, f := range r.Problems {
			fmt.Fprintln(e.Stdout, "PROBLEM:", visible(f.String()))
		}
		if more := r.ProblemCount - len(r.Problems); more > 0 {
			fmt.Fprintf(e.Stdout, "PROBLEM: and %d more\n", more)
		}
		if r.OK() {
			fmt.Fprintf(e.Stdout, "whole: %s, %d to %d, in %s of log %s\nhead %s\n",
				counting(r.Records, "record"), r.FirstSeq, r.Head.Seq, counting(r.Files, "file"), visible(r.LogID), head)
		}
	}
	if !r.OK() {
		return verificationError(fmt.Errorf("the audit log is not whole: %s; keep the files as evidence", counting(r.ProblemCount, "problem")))
	}
	return nil
}
