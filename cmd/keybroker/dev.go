package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/keybroker/keybroker/backends/file"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/tikv"
)

// devKey is the one key of a dev broker.
const devKey = "demo"

// newDevCommand returns `keybroker dev`.
func newDevCommand(env *Env) *cobra.Command {
	var dir, admin, aws string
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a broker with a keyring, a policy and an audit log of its own",
		Long: `Run a working broker in one command, to try it out or to develop against: a
local keyring, one key, a policy that lets you and nobody else do everything, and
an audit log, all made in one private directory. It answers AWS's tools and SDKs as
AWS KMS would, with an access key that it makes. What is there already is used
again, so wrapped keys outlive a restart.

It is for development: the keyring is as safe as the directory it is in.`,
		Example: `  keybroker dev
  keybroker dev --dir /tmp/kb --admin '' --aws 127.0.0.1:7481`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			began := time.Now()
			d, err := makeDev(dir, admin, aws)
			if err != nil {
				return err
			}
			o := serveOptions{
				config: d.path("config.yaml"), insecure: true, logFormat: "text", logLevel: "warn", dev: true,
				ready: func() { d.welcome(env, time.Since(began), aws) },
			}
			if cmd.Flags().Changed("admin") {
				o.admin = &admin
			}
			if cmd.Flags().Changed("aws") {
				o.aws = &aws
			}
			return freeAdmin(serve(cmd.Context(), env, o))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".keybroker-dev", "`directory` for all that it makes")
	cmd.Flags().StringVar(&aws, "aws", "127.0.0.1:7480", "`address` at which it answers as AWS KMS; empty for none")
	cmd.Flags().StringVar(&admin, "admin", "127.0.0.1:7490", "`address` of metrics and health; empty for none, port 0 for a free one")
	return cmd
}

// dev is the directory of a dev broker.
type dev struct{ dir string }

func (d dev) path(name string) string { return filepath.Join(d.dir, name) }

// makeDev makes in dir whatever is not there yet. What could not be served is
// found before anything is made.
func makeDev(dir, admin, aws string) (dev, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return dev{}, err
	}
	d := dev{abs}
	if n := len(d.path("keybroker.sock")); n > config.MaxSocketPath {
		return dev{}, usageError(fmt.Errorf("%s is too long a path: with the name of the socket it has %d bytes, and the kernel takes %d; name a shorter one, such as --dir /tmp/kb",
			d.dir, n, config.MaxSocketPath))
	}
	if _, err := os.Lstat(d.path("config.yaml")); err == nil {
		return d, nil
	}
	for _, try := range []struct{ flag, address string }{{"admin", admin}, {"aws", aws}} {
		if err := tryAddress(try.flag, try.address); err != nil {
			return dev{}, err
		}
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return dev{}, err
	}
	if _, err := file.Create(d.path("keyring"), devKey, rand.Reader, time.Now()); err != nil && !errors.Is(err, fs.ErrExist) {
		return dev{}, err
	}
	if err := d.makeAccessKey(); err != nil {
		return dev{}, err
	}
	var text bytes.Buffer
	t := template.Must(template.New("config").Parse(devConfig))
	if err := t.Execute(&text, map[string]any{"UID": os.Getuid(), "Key": devKey, "Admin": admin, "AWS": aws, "AccessKey": devAccessKey}); err != nil {
		return dev{}, err
	}
	return d, outFile{name: d.path("config.yaml")}.write(text.Bytes())
}

// devAccessKey is the id of the access key of a dev broker; its secret is in
// aws.secret.
const devAccessKey = "KBDEV"

// makeAccessKey makes the secret of the access key, if there is none.
func (d dev) makeAccessKey() error {
	if _, err := os.Lstat(d.path("aws.secret")); err == nil {
		return nil
	}
	k, err := tikv.NewAccessKey(rand.Reader)
	if err != nil {
		return err
	}
	defer k.Secret.Wipe()
	return outFile{name: d.path("aws.secret")}.write(k.Secret.Bytes())
}

// tryAddress tells whether address can be listened on now.
func tryAddress(flag, address string) error {
	if address == "" {
		return nil
	}
	l, err := net.Listen("tcp", address)
	switch {
	case err == nil:
		return l.Close()
	case errors.Is(err, syscall.EADDRINUSE):
		return freeAdmin(fmt.Errorf("--%s: %w", flag, addressInUse(address, err)))
	default:
		return usageError(fmt.Errorf("--%s: %w", flag, err))
	}
}

// freeAdmin adds to an error of an address that is in use how to take another.
func freeAdmin(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%w; `keybroker dev --admin 127.0.0.1:0 --aws ''` takes a free one and does without the other (make run ARGS=\"--admin 127.0.0.1:0 --aws ''\")", err)
	}
	return err
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
{{- if .AWS}}
  aws_kms: {address: "{{.AWS}}"}
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
{{- if .AWS}}
  aws:
    match: {aws: {access_key_id: {{.AccessKey}}, secret_key_file: aws.secret, uid: {{.UID}}}}
    allow:
      - {keys: ["*"], operations: ["*"]}
{{- end}}
audit: {path: audit.jsonl}
memory: {locked: prefer}
`

// welcome prints the next lines to type.
func (d dev) welcome(env *Env, took time.Duration, aws string) {
	fmt.Fprintf(env.Stdout, `keybroker dev is ready after %d ms. All it has is in %s.

In another terminal, paste:

%s
Stop it with Ctrl-C. It goes on where it was when it is started again.
`, took.Milliseconds(), d.dir, indent(d.lines(env.Program(), aws)))
}

// lines are the commands that show the main job.
func (d dev) lines(program, aws string) string {
	file, wrapped := d.freeFile()
	wrapped = quote(wrapped)
	lines := []string{
		"export KEYBROKER_SOCKET=" + quote(d.path("keybroker.sock")),
		"# a data key, wrapped",
		program + " generate " + devKey + " --context file=" + file + " --out " + wrapped,
		"# the data key itself",
		program + " unwrap " + wrapped + " --context file=" + file + " --show",
		program + " keys",
		"# who asked for what",
		program + " audit tail",
		program + " audit verify " + quote(d.path("audit.jsonl")) + "*", // and those before it
	}
	if _, err := os.Lstat(d.path("aws.secret")); err == nil && aws != "" {
		lines = append(lines,
			"# the same key, as AWS's tools and TiKV ask for it",
			"export AWS_ACCESS_KEY_ID="+devAccessKey+" AWS_SECRET_ACCESS_KEY=$(cat "+quote(d.path("aws.secret"))+") AWS_DEFAULT_REGION=us-east-1",
			"command -v aws > /dev/null || aws() { echo \"the AWS CLI is not installed: aws $*\"; }",
			"aws kms generate-data-key --endpoint-url http://"+aws+" --key-id "+devKey+" --key-spec AES_256",
			"aws kms describe-key --endpoint-url http://"+aws+" --key-id alias/"+devKey,
		)
	}
	return strings.Join(lines, "\n")
}

// freeFile names a file to encrypt, and where its wrapped key goes: no key of an
// earlier run is there.
func (d dev) freeFile() (name, wrapped string) {
	for i := 1; ; i++ {
		name = fmt.Sprintf("%d.sst", i)
		wrapped = d.path(name + ".key")
		if _, err := os.Lstat(wrapped); err != nil {
			return name, wrapped
		}
	}
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
