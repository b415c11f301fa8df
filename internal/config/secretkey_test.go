package config_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/internal/config"
)

// secretText is a secret of the shortest length that is taken.
const secretText = "PLANTED-9f86d081884c7d659a2feaa0"

func TestReadSecretKey(t *testing.T) {
	dir := t.TempDir()
	for name, test := range map[string]struct{ content, want string }{
		"the shortest":         {secretText, secretText},
		"with a newline":       {secretText + "\n", secretText},
		"the longest":          {strings.Repeat("x", config.MaxSecretKey) + "\n", strings.Repeat("x", config.MaxSecretKey)},
		"all signs":            {"!#$%&'()*+,-./:;<=>?@[]^_`{|}~\"\\Az0", "!#$%&'()*+,-./:;<=>?@[]^_`{|}~\"\\Az0"},
		"too short":            {secretText[1:], ""},
		"too short, a newline": {secretText[1:] + "\n", ""},
		"two newlines":         {secretText + "\n\n", ""},
		"a carriage return":    {secretText + "\r\n", ""},
		"a space in it":        {secretText[:8] + " " + secretText[8:], ""},
		"a newline before":     {"\n" + secretText, ""},
		"a zero byte":          {secretText + "\x00", ""},
		"not ASCII":            {secretText + "ä", ""},
		"not UTF-8":            {secretText + "\xff", ""},
		"too long":             {strings.Repeat("x", config.MaxSecretKey+1), ""},
		"much too long":        {strings.Repeat("x", 10*config.MaxSecretKey), ""},
		"empty":                {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
			if err := os.WriteFile(path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := config.ReadSecretKey(path)
			if string(got) != test.want || (err == nil) != (test.want != "") {
				t.Errorf("%q, %v", got, err)
			}
			if err != nil && (strings.Contains(err.Error(), planted) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "32 to 1024 characters")) {
				t.Errorf("the error says %v", err)
			}
		})
	}
	for name, path := range map[string]string{"missing": filepath.Join(dir, "missing"), "a directory": dir} {
		t.Run(name, func(t *testing.T) {
			got, err := config.ReadSecretKey(path)
			if got != nil || err == nil || name == "missing" && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// Load refuses a secret that is too weak or open to others, and repeats none.
func TestLoadSecretKeys(t *testing.T) {
	const text = `version: 1
node: n1
listen: {grpc: {socket: /run/kb.sock}, aws_kms: {address: "127.0.0.1:80"}}
backends: {aws: {type: aws-kms, region: eu-central-1}}
keys: {tikv: {recipients: [{backend: aws, key: "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"}]}}
clients:
  tikv: {match: {aws: {access_key_id: kb1, secret_key_file: SECRET, uid: 7}}}
audit: {path: audit.jsonl}
`
	const form = ", with a secret that is no text of 32 to 1024 characters without spaces; want 32 random bytes, as `openssl rand -hex 32` prints them"
	for name, test := range map[string]struct {
		path, content string
		mode          fs.FileMode
		want          string
	}{
		"well":               {"DIR/secret", secretText + "\n", 0o600, "well"},
		"a relative path":    {"secret", secretText, 0o400, "well"},
		"too short":          {"DIR/secret", secretText[1:] + "\n", 0o600, "found DIR/secret" + form},
		"empty":              {"DIR/secret", "", 0o600, "found DIR/secret" + form},
		"with spaces":        {"DIR/secret", secretText + " \n", 0o600, "found DIR/secret" + form},
		"readable by others": {"DIR/secret", secretText, 0o644, "others may use it; want mode 0600 (chmod go= DIR/secret)"},
		"missing":            {"DIR/missing", secretText, 0o600, "found DIR/missing: no such file; want a file that the broker's user may read"},
		"the secret itself":  {secretText, secretText, 0o600, "found a path from the configuration's directory that leads to no file; want a file that the broker's user may read, and its path here; never the secret itself"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(
				os.Chmod(dir, 0o755),
				os.WriteFile(filepath.Join(dir, "secret"), []byte(test.content), test.mode),
				os.WriteFile(filepath.Join(dir, "c.yaml"), []byte(strings.ReplaceAll(text, "SECRET", strings.ReplaceAll(test.path, "DIR", dir))), 0o600),
			); err != nil {
				t.Fatal(err)
			}
			told := strings.ReplaceAll(load(filepath.Join(dir, "c.yaml")), dir, "DIR")
			if test.want == "well" {
				if told != "well" {
					t.Error(told)
				}
				return
			}
			if !strings.HasPrefix(told, "DIR/c.yaml:7:61: clients.tikv.match.aws.secret_key_file: found ") || !strings.Contains(told, test.want) ||
				strings.Contains(told, "\n") || strings.Contains(told, planted) {
				t.Errorf("%s\nwant: %s", told, test.want)
			}
		})
	}
}
