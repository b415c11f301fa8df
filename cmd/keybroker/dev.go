package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/backends/file"
)

// devKey is the one key of a dev broker.
const devKey = "demo"

// newDevCommand returns `keybroker dev`.
func newDevCommand(env *Env) *cobra.Command {
	var dir, admin string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a broker with a keyring, a policy and an audit log of its own",
		Long: `Run a working broker in one command, to try it out or to develop against: a
local keyring, one key, a policy that lets you and nobody else do everything, and
an audit log, all made in one private directory. What is there already is used
again, so wrapped keys outlive a restart.

It is for development: the keyring is as safe as the directory it is in.`,
		Example: `  keybroker dev
  keybroker dev --dir /tmp/kb`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			began := time.Now()
			d, err := makeDev(dir, admin)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), env, serveOptions{
				config: d.path("config.yaml"), insecure: true, logFormat: "text", logLevel: "warn", reflection: true,
				ready: func() { d.welcome(env, time.Since(began)) },
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".keybroker-dev", "`directory` for all that it makes")
	cmd.Flags().StringVar(&admin, "admin", "127.0.0.1:7490", "address of metrics and health; empty for none")
	return cmd
}

// dev is the directory of a dev broker.
type dev struct{ dir string }

func (d dev) path(name string) string { return filepath.Join(d.dir, name) }

// makeDev makes in dir whatever is not there yet.
func makeDev(dir, admin string) (dev, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return dev{}, err
	}
	d := dev{abs}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return dev{}, err
	}
	if _, err := file.Create(d.path("keyring"), devKey, rand.Reader, time.Now()); err != nil && !errors.Is(err, fs.ErrExist) {
		return dev{}, err
	}
	f, err := os.OpenFile(d.path("config.yaml"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return d, nil
	}
	if err != nil {
		return dev{}, err
	}
	t := template.Must(template.New("config").Parse(devConfig))
	err = t.Execute(f, map[string]any{"UID": os.Getuid(), "Key": devKey, "Admin": admin})
	return d, errors.Join(err, f.Close())
}

// devConfig is the configuration of a dev broker. Relative paths are relative to
// the file.
const devConfig = `# Made by keybroker dev. Change it and run: keybroker reload
version: 1
node: dev
listen:
  grpc: {socket: keybroker.sock, mode: "0600"}
{{- if .Admin}}
  admin: {address: "{{.Admin}}"}
{{- end}}
backends:
  local: {type: file, path: keyring}
keys:
  {{.Key}}:
    recipients:
      - {backend: local, key: {{.Key}}}
clients:
  you:
    match: {unix: {uid: {{.UID}}}}
    allow:
      - {keys: ["*"], operations: ["*"]}
    admin: ["*"]
audit: {path: audit.jsonl}
memory: {locked: prefer}
`

// welcome prints the next lines to type.
func (d dev) welcome(env *Env, took time.Duration) {
	fmt.Fprintf(env.Stdout, `keybroker dev is ready after %d ms. All it has is in %s.

In another terminal, in this directory, paste:

%s
Stop it with Ctrl-C. It goes on where it was when it is started again.
`, took.Milliseconds(), d.dir, indent(d.lines(env.Program())))
}

// lines are the commands that show the main job.
func (d dev) lines(program string) string {
	return strings.Join([]string{
		"export KEYBROKER_SOCKET=" + quote(d.path("keybroker.sock")),
		program + " generate " + devKey + " --context file=1.sst --out 1.sst.key     # a data key, wrapped",
		program + " unwrap 1.sst.key --context file=1.sst --show           # the data key itself",
		program + " keys",
		program + " audit tail                                             # who asked for what",
		program + " audit verify " + quote(d.path("audit.jsonl")),
		"",
	}, "\n")
}

func indent(lines string) string {
	return "  " + strings.ReplaceAll(strings.TrimSpace(lines), "\n", "\n  ") + "\n"
}

// quote quotes a path for a shell if it has to.
func quote(path string) string {
	if strings.ContainsFunc(path, func(r rune) bool {
		return !strings.ContainsRune("/._-+=:@%", r) && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
