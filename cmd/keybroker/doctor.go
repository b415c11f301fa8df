package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/doctor"
	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func newDoctorCommand(env *Env, opts *options) *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look for what could keep the broker from serving on this host",
		Long: `Look at this host as the broker would: the configuration and the files it names,
locked memory, swap, the kernel's ways to know a caller, the disk of
the audit log, the clock, and the broker itself if it runs. Each finding says what
to do. Run it as the user that serves.`,
		Example: `  sudo -u keybroker keybroker doctor`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), opts.timeout)
			defer cancel()
			return env.examine(ctx, path, opts)
		},
	}
	cmd.Flags().StringVarP(&path, "config", "c", defaultConfig, "configuration `file`")
	return cmd
}

func (e *Env) examine(ctx context.Context, path string, opts *options) error {
	findings := []doctor.Finding{}
	cfg, err := config.Load(path)
	var problems config.Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			findings = append(findings, doctor.Finding{Subject: "configuration", Level: doctor.Bad, Text: p.String()})
		}
		cfg = nil
	case err != nil:
		return err
	default:
		findings = append(findings, doctor.Finding{Subject: "configuration", Level: doctor.Good, Text: path})
		for _, w := range cfg.Warnings {
			findings = append(findings, doctor.Finding{Subject: "configuration", Level: doctor.Doubtful, Text: w.String()})
		}
	}
	host := doctor.Host{}
	if cfg != nil {
		host.ArenaBytes, host.RequireLocked, host.AuditPath = cfg.Memory.Size, cfg.Memory.RequireLocked, cfg.Audit.Path
	}
	findings = append(findings, doctor.Examine(host)...)
	findings = append(findings, e.examineBroker(ctx, opts)...)

	if opts.output == outputJSON {
		if err := e.printJSON(findings); err != nil {
			return err
		}
	} else if err := e.printFindings(findings); err != nil {
		return err
	}
	found := 0
	for _, f := range findings {
		if f.Level == doctor.Bad {
			found++
		}
	}
	switch {
	case len(problems) > 0:
		return configError(fmt.Errorf("%s, %d of them in the configuration", counting(found, "problem"), len(problems)))
	case found > 0:
		return fmt.Errorf("%s", counting(found, "problem"))
	default:
		return nil
	}
}

// examineBroker asks the running broker, if there is one.
func (e *Env) examineBroker(ctx context.Context, opts *options) []doctor.Finding {
	const subject = "broker"
	var findings []doctor.Finding
	err := opts.withClient(ctx, func(ctx context.Context, c *client) error {
		s, err := c.GetStatus(ctx, &keybrokerv1.GetStatusRequest{})
		if err != nil {
			return err
		}
		if problem := s.Audit.GetError(); problem != "" {
			findings = append(findings, doctor.Finding{Subject: "audit log", Level: doctor.Bad, Text: problem})
		}
		for _, b := range s.Backends {
			if b.Up != nil && !*b.Up {
				findings = append(findings, doctor.Finding{Subject: "backend " + b.Name, Level: doctor.Bad, Text: b.LastError})
			}
		}
		for _, k := range s.Keys {
			if k.State == keybrokerv1.KeyState_KEY_STATE_UNAVAILABLE {
				findings = append(findings, doctor.Finding{Subject: "key " + k.Name, Level: doctor.Bad, Text: "no KMS of it answers and nothing is cached: `keybroker config check --online` says of each why"})
			}
		}
		if v := versionText(); s.Version != v {
			findings = append(findings, doctor.Finding{Subject: subject, Level: doctor.Doubtful, Text: fmt.Sprintf("version %s runs, this program is %s: restart it", s.Version, v)})
		}
		return nil
	})
	switch {
	case err == nil:
		return append(findings, doctor.Finding{Subject: subject, Level: doctor.Good, Text: "it answers on " + opts.socket})
	case reasonOf(err) == "ACCESS_DENIED":
		return append(findings, doctor.Finding{Subject: subject, Level: doctor.Good, Text: "it answers on " + opts.socket + ", but this user may not ask for its status"})
	default:
		return append(findings, doctor.Finding{Subject: subject, Level: doctor.Doubtful, Text: message(err)})
	}
}

func (e *Env) printFindings(findings []doctor.Finding) error {
	var t table
	for _, f := range findings {
		mark := cell{"ok", good}
		switch f.Level {
		case doctor.Bad:
			mark = cell{"BAD", bad}
		case doctor.Doubtful:
			mark = cell{"warn", warn}
		}
		t.row(mark, f.Subject, f.Text)
	}
	return e.printTable(&t)
}
