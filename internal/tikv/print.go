package tikv

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// Setting is one store's way to a broker.
type Setting struct {
	Endpoint, Region string
	// KeyID is the key's name, or the AWS key id that is handed on.
	KeyID string
	// AccessKeyID, and SecretFile, in which its secret is.
	AccessKeyID, SecretFile string
	// Secret is printed if it is not empty; else where it is.
	Secret string
}

// Block is a piece of configuration, to be pasted.
type Block struct {
	// For is one of Blocks.
	For string `json:"for"`
	// File is where it goes.
	File string `json:"file"`
	// Comment says how, in lines that begin with #.
	Comment string `json:"comment"`
	// Text is TOML or YAML, and ends in a newline.
	Text string `json:"text"`
}

// Blocks are the names of what Print prints, in its order.
func Blocks() []string { return []string{"tikv", "tiflash", "tiup", "operator"} }

// Print returns the block of that name, or an error that names those there are.
// With a Secret in s, Check finds nothing wrong with any of them.
func Print(name string, s Setting) (Block, error) {
	b := Block{For: name}
	switch name {
	case "tikv":
		b.File, b.Text = "tikv.toml", s.toml()+"\n"+comment(previousText)
		b.Comment = "tikv.toml of the stores beside this broker."
	case "tiflash":
		b.File, b.Text = "tiflash-learner.toml", s.toml()+"\n"+comment(previousText)
		b.Comment = "tiflash-learner.toml: the same as TiKV's. Each TiFlash has a key.dict of its own."
	case "tiup":
		b.File, b.Text = "topology.yaml", s.tiup()
		b.Comment = `TiUP: tiup cluster edit-config NAME, then tiup cluster reload NAME -R tikv,tiflash.
TiUP keeps the secret in its meta.yaml. An access key for each host goes under the
config of that host's tikv_servers and learner_config of its tiflash_servers instead.`
	case "operator":
		b.File, b.Text = "TiKVGroup or TidbCluster", s.operator()
		b.Comment = `TiDB Operator: the first document is of version 2, the second of version 1. Merge one
into what is there. deploy/kubernetes has the broker as a sidecar, which shares
loopback with TiKV. The operator writes the secret into a ConfigMap. TiFlash takes the
same (version 1: spec.tiflash.config.proxy).`
	default:
		return Block{}, errors.New("want one of " + strings.Join(Blocks(), ", "))
	}
	b.Comment = comment(b.Comment)
	return b, nil
}

// Credentials returns the lines of tikv.toml that a new access key changes.
func (s Setting) Credentials() string {
	return fmt.Sprintf("[security.encryption.master-key.aws]\naccess-key = %s\nsecret-access-key = %s\n", quoted(s.AccessKeyID), quoted(s.secret()))
}

// placeholderStart begins what stands for a secret that is not printed. TiKV would
// be refused with it, where it would look for a cloud's with none.
const placeholderStart = "<content of "

func (s Setting) secret() string {
	if s.Secret != "" {
		return s.Secret
	}
	return placeholderStart + s.SecretFile + ">"
}

func (s Setting) toml() string {
	return fmt.Sprintf(`[security.encryption]
data-encryption-method = "aes256-ctr"

[security.encryption.master-key]
type = "kms"
vendor = "aws"
key-id = %s
region = %s
endpoint = %s

`, quoted(s.KeyID), quoted(s.Region), quoted(s.Endpoint)) + s.Credentials()
}

// quoted is s as TOML and YAML have it between double quotes.
func quoted(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// shellQuoted is a path as a shell takes it for one word, also inside "$( )".
func shellQuoted(path string) string {
	if strings.Trim(path, "/._-+=:@%0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// comment puts "# " before each line.
func comment(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
	return b.String()
}

func indent(text string, by int) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if line != "\n" {
			b.WriteString(strings.Repeat(" ", by))
		}
		b.WriteString(line)
	}
	return b.String()
}

const previousText = `Only while the master key is replaced, and until every store has logged
"persisted result after replace master key": what the store's key.dict has now.
[security.encryption.previous-master-key]
type = "file"
path = "/etc/tikv/old.key"
`

// Notes returns what else must be right, in lines that begin with #.
func (s Setting) Notes() string {
	return comment(fmt.Sprintf(`- TiKV writes the secret into its log when it starts, and serves it at
  /config?full=true: give every host an access key of its own, and never one of a
  cloud account.
- [security.encryption.master-key.aws] is read by TiKV 8.4 and later. Earlier ones
  take AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY from the environment, by a systemd
  drop-in; so does BR to S3, which then does without the host's role.
- Set AWS_EC2_METADATA_DISABLED=true for TiKV: it asks the metadata service for a
  region before it asks the broker. Unset AWS_USE_FIPS_ENDPOINT and
  AWS_USE_DUALSTACK_ENDPOINT: the SDK takes no endpoint together with them.
- The endpoint needs its scheme: without it TiKV tries for 5 minutes and says
  "dispatch failure".
- TiKV starts after the broker: Wants= and After=keybroker.service (not Requires=),
  in /etc/systemd/system/tikv-.service.d/10-keybroker.conf.
- BR takes a key id without a slash, and an endpoint that is right on BR's host and
  on each store's:
  --master-key "aws-kms:///%s?REGION=%s&ENDPOINT=%s&AWS_ACCESS_KEY_ID=%s&AWS_SECRET_ACCESS_KEY=$(cat %s)"
- Before TiKV is restarted: keybroker tikv config --check FILE
`, s.KeyID[strings.LastIndex(s.KeyID, "/")+1:], url.QueryEscape(s.Region), s.Endpoint, url.QueryEscape(s.AccessKeyID), shellQuoted(s.SecretFile)))
}

func (s Setting) tiup() string {
	var b strings.Builder
	b.WriteString("server_configs:\n")
	for _, component := range []string{"tikv", "tiflash-learner"} {
		fmt.Fprintf(&b, "  %s:\n", component)
		for _, pair := range [][2]string{
			{"data-encryption-method", "aes256-ctr"},
			{"master-key.type", "kms"},
			{"master-key.vendor", "aws"},
			{"master-key.key-id", s.KeyID},
			{"master-key.region", s.Region},
			{"master-key.endpoint", s.Endpoint},
			{"master-key.aws.access-key", s.AccessKeyID},
			{"master-key.aws.secret-access-key", s.secret()},
		} {
			fmt.Fprintf(&b, "    security.encryption.%s: %s\n", pair[0], quoted(pair[1]))
		}
	}
	return b.String()
}

func (s Setting) operator() string {
	return `apiVersion: core.pingcap.com/v1alpha1
kind: TiKVGroup
metadata:
  name: tikv
spec:
  template:
    spec:
      config: |
` + indent(s.toml(), 8) + `      overlay:
        pod:
          spec:
            containers:
              - name: tikv
                env:
                  - name: AWS_EC2_METADATA_DISABLED
                    value: "true"
---
apiVersion: pingcap.com/v1alpha1
kind: TidbCluster
metadata:
  name: basic
spec:
  tikv:
    env:
      - name: AWS_EC2_METADATA_DISABLED
        value: "true"
    config: |
` + indent(s.toml(), 6)
}
