//go:build unix

package config_test

import (
	"strings"
	"testing"
)

// cloudFiles is a configuration whose backends name a file of each use.
const cloudFiles = `version: 1
listen:
  grpc: {socket: /run/kb.sock}
backends:
  aws:
    type: aws-kms
    region: eu-west-1
    ca_file: aws-ca.crt
    web_identity:
      role_arn: arn:aws:iam::123456789012:role/kb
      token_file: token
  gcp:
    type: gcp-kms
    ca_file: gcp-ca.crt
    credentials_file: google.json
keys:
  tikv: {recipients: [{backend: gcp, key: projects/p-1/locations/global/keyRings/r/cryptoKeys/k}]}
clients:
  tikv: {match: {unix: {uid: 0}}}
audit: {path: audit.jsonl}
`

func TestLoadCloudFiles(t *testing.T) {
	writable := func(place, name string) string {
		return "DIR/config.yaml:" + place + ": found DIR/" + name + ", of mode 0664 and uid UID: others may write it; want a file that only root and the broker's user may write (chmod go-w DIR/" + name + ")"
	}
	for _, test := range []struct {
		name   string
		change func(l *loading)
		want   string
	}{
		{"read by others, but for the credentials", func(*loading) {}, "well"},
		{"AWS's roots written by others", func(l *loading) { l.chmod("aws-ca.crt", 0o664) },
			writable("8:14: backends.aws.ca_file", "aws-ca.crt")},
		{"token written by others", func(l *loading) { l.chmod("token", 0o664) },
			writable("11:19: backends.aws.web_identity.token_file", "token")},
		{"Google's roots written by others", func(l *loading) { l.chmod("gcp-ca.crt", 0o664) },
			writable("14:14: backends.gcp.ca_file", "gcp-ca.crt")},
		{"credentials read by others", func(l *loading) { l.chmod("google.json", 0o644) },
			"DIR/config.yaml:15:23: backends.gcp.credentials_file: found DIR/google.json, of mode 0644 and uid UID: others may use it; want mode 0600 (chmod go= DIR/google.json)"},
		{"no credentials", func(l *loading) { l.remove("google.json") },
			"DIR/config.yaml:15:23: backends.gcp.credentials_file: found a path from the configuration's directory that leads to no file; want a file that the broker's user may read, and its path here; never the secret itself"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLoading(t, false)
			l.write("config.yaml", cloudFiles, 0o644)
			for _, name := range []string{"aws-ca.crt", "token", "gcp-ca.crt"} {
				l.write(name, "content", 0o644)
			}
			l.write("google.json", "content", 0o600)
			test.change(l)
			if got := strings.TrimSuffix(l.load("config.yaml"), "\n"); got != test.want {
				t.Errorf("%s\nwant: %s", got, test.want)
			}
		})
	}
}
