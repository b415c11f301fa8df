package tikv_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/tikv"
)

const (
	ourSecret   = "s0urs-0123456789abcdefghijklmnopqrstuvwxyzA"
	theirSecret = "sth3irs-9876543210zyxwvutsrqponmlkjihgfedcb"
	awsKey      = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
)

// ours is a broker with two keys and three clients.
func ours() tikv.Broker {
	lacks := func(missing ...string) func(string, ...string) []string {
		return func(key string, asked ...string) []string {
			return slices.DeleteFunc(slices.Clone(asked), func(o string) bool { return !slices.Contains(missing, key+" "+o) })
		}
	}
	b := tikv.Broker{
		Region: "us-east-1", Account: "000000000000",
		Keys: []tikv.Key{
			{Name: "tikv", Aliases: []string{"master"}},
			{Name: "old", Passthrough: awsKey},
		},
		Clients: []tikv.Client{
			{Name: "tikv-01", AccessKeyID: "KBOURS", SecretFile: "/etc/ours.secret", Secret: secret.NewValue([]byte(ourSecret)), Lacks: lacks("old generate")},
			{Name: "blind", AccessKeyID: "KBBLIND", SecretFile: "/etc/blind.secret", Lacks: lacks("tikv generate", "tikv unwrap")},
			{Name: "unknown-rights", AccessKeyID: "KBNEW", SecretFile: "/etc/new.secret", Secret: secret.NewValue([]byte(theirSecret))},
		},
	}
	b.Listen("127.0.0.1:7480", false)
	return b
}

const good = `[security.encryption]
data-encryption-method = "aes256-ctr"
[security.encryption.master-key]
type = "kms"
vendor = "aws"
key-id = "tikv"
region = "us-east-1"
endpoint = "http://127.0.0.1:7480"
[security.encryption.master-key.aws]
access-key = "KBOURS"
secret-access-key = "` + ourSecret + `"
`

func TestCheck(t *testing.T) {
	// with is the good configuration with one line in place of another.
	with := func(pairs ...string) string { return strings.NewReplacer(pairs...).Replace(good) }
	previous := func(lines ...string) string {
		return good + "[security.encryption.previous-master-key]\n" + strings.Join(lines, "\n") + "\n"
	}
	for _, tt := range []struct {
		name, file string
		// want are the beginnings of the problems, in order.
		want []string
	}{
		{"all well", good, nil},
		{"in other forms", "security.encryption = {data-encryption-method = 'AES256-CTR', master-key = {type = \"kms\", key-id = \"tikv\", region = \"us-east-1\", endpoint = \"http://127.0.0.1:7480/\", aws.access-key = \"KBOURS\", aws.secret-access-key = '" + ourSecret + "'}}\n", nil},
		{"dotted keys", "[security]\nencryption.data-encryption-method = \"sm4-ctr\"\nencryption.master-key.type = \"kms\"\nencryption.master-key.key-id = 1\nencryption.master-key.vendor = \"AWS\"\n",
			[]string{"t:4:23: error: security.encryption.master-key.key-id: found a number; want text, in quotes", `t:5:23: error: security.encryption.master-key.vendor: found "AWS"; want "aws", in lower case`}},
		{"empty", "", []string{"t: error: security.encryption: found nothing; want the table"}},
		{"no TOML", "[security\n", []string{"t:1:"}},
		{"twice", good + "[security.encryption]\n", []string{"t:12:"}},
		{"a bare secret", "secret-access-key = " + theirSecret, []string{"t:1:21: error: found what is not TOML (unexpected character U+0073 's'"}},
		{"no table", "security = 1\n", []string{"t:1:1: error: security.encryption: found nothing"}},
		{"another type", "[security]\nencryption = \"x\"\n", []string{"t:2:1: error: security.encryption: found text; want a table"}},

		{"no method", with("data-encryption-method = \"aes256-ctr\"\n", ""), []string{"t:1:11: error: security.encryption.data-encryption-method: found nothing, by which nothing is encrypted"}},
		{"method plaintext", with("aes256-ctr", "PlainText"), []string{`t:2:1: error: security.encryption.data-encryption-method: found "plaintext", by which nothing is encrypted`}},
		{"method unknown", with("aes256-ctr", "aes-256-ctr"), []string{`t:2:1: error: security.encryption.data-encryption-method: found "aes-256-ctr"; want "aes256-ctr"`}},
		{"method the word unknown", with("aes256-ctr", "unknown"), []string{`t:2:1: error: security.encryption.data-encryption-method: found "unknown"`}},
		{"method empty", with("aes256-ctr", ""), []string{`t:2:1: error: security.encryption.data-encryption-method: found ""`}},
		{"no master key", good[:strings.Index(good, "[security.encryption.m")], []string{"t:1:11: error: security.encryption.master-key.type: found no master key"}},
		{"no type", with("type = \"kms\"\n", ""), []string{`t:3:22: error: security.encryption.master-key.type: found nothing; want "kms"`}},
		{"type in capitals", with(`"kms"`, `"KMS"`), []string{`t:4:1: error: security.encryption.master-key.type: found "KMS"; want "kms", in lower case`}},
		{"type a number", with(`"kms"`, `1`), []string{`t:4:1: error: security.encryption.master-key.type: found a number`}},
		{"type plaintext", with(`"kms"`, `"plaintext"`), []string{"t:4:1: error: security.encryption.master-key.type: found no master key"}},
		{"type file", with(`type = "kms"`, "type = \"file\"\npath = \"key\""), []string{
			`t:4:1: warning: security.encryption.master-key.type: found "file": this broker is not asked`, `t:5:1: warning: security.encryption.master-key.path: found "key", from wherever`}},
		{"a master key that is no table", "[security.encryption]\ndata-encryption-method = \"aes256-ctr\"\nmaster-key = \"kms\"\n", []string{"t:3:1: error: security.encryption.master-key: found text; want a table"}},
		{"an unknown key", with("key-id", "key_id"), []string{
			"t:3:22: error: security.encryption.master-key.key-id: found nothing; want the name of a key of the broker (tikv, old)",
			"t:6:1: warning: security.encryption.master-key.key_id: found a key that TiKV does not know, and ignores; want key-id"}},
		{"a key as AWS calls it", with("access-key = \"K", "access-key-id = \"K"), []string{
			"t:9:33: error: security.encryption.master-key.aws.access-key: found nothing: TiKV ignores the secret without it",
			"t:10:1: warning: security.encryption.master-key.aws.access-key-id: found a key that TiKV does not know, and ignores; want access-key"}},

		{"vendor in capitals", with(`"aws"`, `"AWS"`), []string{`t:5:1: error: security.encryption.master-key.vendor: found "AWS"; want "aws", in lower case`}},
		{"no vendor", with("vendor = \"aws\"\n", ""), nil},
		{"vendor unknown", with(`"aws"`, `"keybroker"`), []string{`t:5:1: error: security.encryption.master-key.vendor: found "keybroker", which TiKV does not know`}},
		{"vendor gcp", with(`"aws"`, `"gcp_v2"`), []string{`t:5:1: warning: security.encryption.master-key.vendor: found "gcp_v2": this broker is not asked`}},

		{"no scheme", with("http://", ""), []string{`t:8:1: error: security.encryption.master-key.endpoint: found no scheme in it: TiKV tells "dispatch failure" after 5 minutes; want "http://127.0.0.1:7480"`}},
		{"another scheme", with("http://", "unix://"), []string{"t:8:1: error: security.encryption.master-key.endpoint: found no http or https URL"}},
		{"https where there is http", with("http://", "https://"), []string{`t:8:1: error: security.encryption.master-key.endpoint: found "https://127.0.0.1:7480"; want "http://127.0.0.1:7480": the broker has no other scheme there`}},
		{"no endpoint", with("endpoint = \"http://127.0.0.1:7480\"\n", ""), []string{`t:3:22: error: security.encryption.master-key.endpoint: found no endpoint of the broker: TiKV would ask AWS itself for "tikv", a key of the broker`}},
		{"AWS itself", with("http://127.0.0.1:7480", "https://kms.eu-west-1.amazonaws.com", "\"tikv\"", "\""+awsKey+"\"", "KBOURS", "AKIAIOSFODNN7EXAMPLE"), []string{
			"t:8:1: warning: security.encryption.master-key.endpoint: found no endpoint of the broker: TiKV asks AWS itself",
			"t:9:33: warning: security.encryption.master-key.aws: found a key of an AWS account; want none here"}},
		{"another port", with("7480", "7481"), []string{`t:8:1: error: security.encryption.master-key.endpoint: found "http://127.0.0.1:7481", where the broker does not listen`}},
		{"localhost", with("127.0.0.1", "localhost"), []string{"t:8:1: warning: security.encryption.master-key.endpoint: found \"http://localhost:7480\", whose name may stand for another address"}},
		{"another host", with("127.0.0.1", "10.0.0.1"), []string{`t:8:1: error: security.encryption.master-key.endpoint: found "http://10.0.0.1:7480", and the broker listens on 127.0.0.1:7480 alone`}},
		{"a path", with("7480\"", "7480/kms\""), []string{"t:8:1: warning: security.encryption.master-key.endpoint: found a path, query or fragment"}},
		{"a password", with("http://", "http://me:"+theirSecret+"@"), []string{"t:8:1: error: security.encryption.master-key.endpoint: found a URL with a user or password"}},
		{"no URL", with("http://127.0.0.1:7480", "http://[::1"), []string{"t:8:1: error: security.encryption.master-key.endpoint: found no http or https URL"}},

		{"a key by its ARN", with(`"tikv"`, `"arn:aws:kms:us-east-1:000000000000:key/tikv"`), []string{`t:6:1: warning: security.encryption.master-key.key-id: found "arn:aws:kms:us-east-1:000000000000:key/tikv", which changes with the broker's region and account; want "tikv"; BR's URLs`}},
		{"a key by its alias", with(`"tikv"`, `"alias/master"`), []string{`t:6:1: warning: security.encryption.master-key.key-id: found "alias/master", an alias`}},
		{"a key by its alias's ARN", with(`"tikv"`, `"arn:aws:kms:us-east-1:000000000000:alias/master"`), []string{`t:6:1: warning: security.encryption.master-key.key-id: found "arn:aws:kms:us-east-1:000000000000:alias/master", an alias`}},
		{"a key by its bare alias", with(`"tikv"`, `"master"`), []string{`t:6:1: warning: security.encryption.master-key.key-id: found "master", an alias: once it means another key, no store that has it starts again; want "tikv"`}},
		{"no key of the broker", with(`"tikv"`, `"tkiv"`), []string{`t:6:1: error: security.encryption.master-key.key-id: found "tkiv", which no key of the broker is called; want one of tikv, old`}},
		{"no alias of the broker", with(`"tikv"`, `"alias/none"`), []string{`t:6:1: error: security.encryption.master-key.key-id: found "alias/none", which no key`}},
		{"an ARN of another account", with(`"tikv"`, `"arn:aws:kms:us-east-1:111122223333:key/tikv"`), []string{`t:6:1: error: security.encryption.master-key.key-id: found "arn:aws:kms:us-east-1:111122223333:key/tikv", an ARN of another region or account than the broker's (us-east-1, 000000000000)`}},
		{"an ARN of something else", with(`"tikv"`, `"arn:aws:s3:::bucket"`), []string{`t:6:1: error: security.encryption.master-key.key-id: found "arn:aws:s3:::bucket", which is no ARN of a KMS key`}},
		{"an ARN of no key", with(`"tikv"`, `"arn:aws:kms:us-east-1:000000000000:tikv"`), []string{`t:6:1: error: security.encryption.master-key.key-id: found "arn:aws:kms:us-east-1:000000000000:tikv", which is no ARN of a KMS key`}},
		{"no key id", with(`"tikv"`, `""`), []string{"t:6:1: error: security.encryption.master-key.key-id: found nothing"}},
		{"another region", with("us-east-1", "eu-west-1"), []string{`t:7:1: warning: security.encryption.master-key.region: found "eu-west-1"; want "us-east-1", the broker's`}},
		{"no region", with("region = \"us-east-1\"\n", ""), []string{"t:3:22: warning: security.encryption.master-key.region: found nothing, for which TiKV takes AWS_REGION"}},

		{"no access key at all", good[:strings.Index(good, "[security.encryption.master-key.aws")], []string{"t:3:22: warning: security.encryption.master-key.aws: found no access key; want one of the broker's (TiKV 8.4 and later), or AWS_ACCESS_KEY_ID"}},
		{"an empty table", good[:strings.Index(good, "access-key")], []string{"t:9:33: error: security.encryption.master-key.aws: found neither"}},
		{"no secret", with("secret-access-key = \""+ourSecret+"\"\n", ""), []string{"t:9:33: error: security.encryption.master-key.aws.secret-access-key: found nothing: TiKV ignores the access key without it"}},
		{"a secret that is a number", with("\""+ourSecret+"\"", "1"), []string{"t:11:1: error: security.encryption.master-key.aws.secret-access-key: found a number"}},
		{"no client's access key", with("KBOURS", "KBNOBODY"), []string{`t:10:1: error: security.encryption.master-key.aws.access-key: found "KBNOBODY", which no client of the broker has`}},
		{"a cloud's access key", with("KBOURS", "ASIAIOSFODNN7EXAMPLE"), []string{`t:10:1: error: security.encryption.master-key.aws.access-key: found "ASIAIOSFODNN7EXAMPLE", a key of an AWS account; want a key of the broker`}},
		{"the id and the secret in each other's place", with("access-key = \"KBOURS\"", "access-key = \""+theirSecret+"\"", ourSecret, "KBOURS"), []string{"t:10:1: error: security.encryption.master-key.aws.access-key: found what no client of the broker has, and may be a secret"}},
		{"a secret in another place", with("aes256-ctr", ourSecret), []string{`t:2:1: error: security.encryption.data-encryption-method: found the secret of client tikv-01; want "aes256-ctr"`}},
		{"a secret as a key", good + ourSecret + " = 1\n", []string{"t:9:33: warning: security.encryption.master-key.aws: found the secret of client tikv-01 as the name of a key"}},
		{"another secret", with(ourSecret, theirSecret), []string{"t:11:1: error: security.encryption.master-key.aws.secret-access-key: found another secret than client tikv-01's; want the content of /etc/ours.secret"}},
		{"a secret with a newline", with(ourSecret, ourSecret+`\n`), []string{"t:11:1: error: security.encryption.master-key.aws.secret-access-key: found white space around the secret"}},
		{"the placeholder", with(ourSecret, "<content of /etc/ours.secret>"), []string{"t:11:1: error: security.encryption.master-key.aws.secret-access-key: found a placeholder"}},
		{"a client without rights, whose secret cannot be read", with("KBOURS", "KBBLIND"), []string{
			`t:10:1: error: security.encryption.master-key.aws.access-key: found "KBBLIND": client blind may not generate and unwrap with key tikv; want clients.blind.allow: [{keys: [tikv], operations: [generate, unwrap]}]`,
			"t:11:1: warning: security.encryption.master-key.aws.secret-access-key: found a secret that was not compared"}},
		{"a client whose rights are not known", with("KBOURS", "KBNEW", ourSecret, theirSecret), nil},
		{"the key of AWS through the broker", with(`"tikv"`, `"1234abcd-12ab-34cd-56ef-1234567890ab"`, "KBOURS", "KBNEW", ourSecret, theirSecret), nil},
		{"the same by its ARN", with(`"tikv"`, `"`+awsKey+`"`, "KBOURS", "KBNEW", ourSecret, theirSecret), []string{`t:6:1: warning: security.encryption.master-key.key-id: found "` + awsKey + `", which has a slash; want the part after the slash`}},

		{"from a file", previous(`type = "file"`, `path = "/etc/tikv/old.key"`), nil},
		{"from a file without a path", previous(`type = "file"`), []string{"t:12:22: error: security.encryption.previous-master-key.path: found nothing"}},
		{"from plaintext", previous(`type = "plaintext"`), []string{"t:13:1: warning: security.encryption.previous-master-key.type: found no key, which is also the default"}},
		{"from the same key", previous(`type = "kms"`, `key-id = "tikv"`, `region = "us-east-1"`, `endpoint = "http://127.0.0.1:7480"`, `aws = {access-key = "KBOURS", secret-access-key = "`+ourSecret+`"}`), []string{
			"t:12:22: warning: security.encryption.previous-master-key: found the same key as master-key"}},
		{"from another key of the broker", previous(`type = "kms"`, `key-id = "old"`, `region = "us-east-1"`, `endpoint = "http://127.0.0.1:7480"`, `aws = {access-key = "KBOURS", secret-access-key = "`+ourSecret+`"}`), []string{
			"t:12:22: warning: security.encryption.previous-master-key: found a key in a KMS before another one; want a TiKV that falls back from KMS to KMS: 6.5.11"}},
		{"from AWS itself", previous(`type = "kms"`, `key-id = "`+awsKey+`"`, `region = "eu-west-1"`), []string{"t:12:22: warning: security.encryption.previous-master-key: found a key in a KMS before another one"}},
		{"from AWS itself, which the new key hands on to", strings.NewReplacer(`"tikv"`, `"old"`, "KBOURS", "KBNEW", ourSecret, theirSecret).Replace(previous(`type = "kms"`, `key-id = "`+awsKey+`"`, `region = "eu-west-1"`)), []string{
			"t:12:22: warning: security.encryption.previous-master-key: found the key of AWS that is the passthrough of old: the broker opens key.dict by it, and the store never takes old"}},
		{"from another broker", previous(`type = "kms"`, `key-id = "x"`, `endpoint = "http://10.0.0.1:80"`), []string{
			"t:12:22: warning: security.encryption.previous-master-key: found a key in a KMS", `t:15:1: warning: security.encryption.previous-master-key.endpoint: found "http://10.0.0.1:80", which is not this broker's`}},
		{"from another vendor", previous(`type = "kms"`, `vendor = "azure"`, `key-id = "x"`), []string{`t:14:1: error: security.encryption.previous-master-key.vendor: found "azure", whose key.dict a master-key of another vendor cannot take over; want type = "file" between`}},
		{"from a type that is none", previous(`type = "vault"`), []string{`t:13:1: error: security.encryption.previous-master-key.type: found "vault"`}},
		{"from another vendor to a file", "[security.encryption]\ndata-encryption-method = \"aes256-ctr\"\nmaster-key = {type = \"file\", path = \"/k\"}\nprevious-master-key = {type = \"kms\", vendor = \"gcp\", key-id = \"x\"}\n", []string{
			"t:3:15: warning: security.encryption.master-key.type: found \"file\": this broker is not asked"}},
		{"out to a file", strings.ReplaceAll(good, "master-key", "previous-master-key") + "[security.encryption.master-key]\ntype = \"file\"\npath = \"/etc/tikv/new.key\"\n", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			problems := tikv.Check([]byte(tt.file), ours())
			var got []string
			for _, p := range problems {
				got = append(got, p.Text("t"))
			}
			if all := strings.Join(got, "\n"); strings.Contains(all, ourSecret) || strings.Contains(all, theirSecret) {
				t.Errorf("it shows a secret:\n%s", all)
			}
			if !slices.EqualFunc(got, tt.want, strings.HasPrefix) {
				t.Errorf("found\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(tt.want, "\n\t"))
			}
			failing := 0
			for _, line := range tt.want {
				if strings.Contains(line, ": error: ") || !strings.Contains(line, ": warning: ") {
					failing++
				}
			}
			if n := tikv.Failing(problems); n != failing {
				t.Errorf("Failing() = %d, want %d", n, failing)
			}
		})
	}
}

// TestCheckEverywhere has a broker that other hosts reach, too.
func TestCheckEverywhere(t *testing.T) {
	for address, want := range map[string]map[string]string{
		"0.0.0.0:7480": {
			"http://127.0.0.1:7480": "", "http://localhost:7480": "", "http://tikv-01.example:7480": "",
			"http://tikv-01.example:80": "warning", "http://127.0.0.1:80": "error", "https://localhost:7480": "error",
		},
		"[::]:7480":     {"http://[::1]:7480": "", "http://127.0.0.1:7480": ""},
		"10.0.0.5:7480": {"http://10.0.0.5:7480": "", "http://tikv-01:7480": "warning", "http://10.0.0.5:80": "error"},
	} {
		b := ours()
		b.Listen(address, false)
		for endpoint, severity := range want {
			problems := tikv.Check([]byte(strings.Replace(good, "http://127.0.0.1:7480", endpoint, 1)), b)
			switch {
			case severity == "" && len(problems) == 0:
			case len(problems) == 1 && string(problems[0].Severity) == severity:
			default:
				t.Errorf("on %s, %s: %v, want %q", address, endpoint, problems, severity)
			}
		}
	}
	for address, want := range map[string]string{"0.0.0.0:1": "https://127.0.0.1:1", "[::]:1": "https://[::1]:1", "kb.example:1": "https://kb.example:1"} {
		var b tikv.Broker
		b.Listen(address, true)
		if b.Endpoint != want {
			t.Errorf("Listen(%q): %s, want %s", address, b.Endpoint, want)
		}
	}
}

func TestCheckTooLong(t *testing.T) {
	problems := tikv.Check(make([]byte, tikv.MaxConfig+1), ours())
	if len(problems) != 1 || tikv.Failing(problems) != 1 {
		t.Errorf("%v", problems)
	}
}

func TestCheckEnvironment(t *testing.T) {
	vars := map[string]string{"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "False"}
	problems := tikv.CheckEnvironment(func(name string) string { return vars[name] })
	if len(problems) != 1 || problems[0].Key != "$AWS_USE_FIPS_ENDPOINT" || problems[0].Severity != tikv.Doubtful {
		t.Errorf("%v", problems)
	}
}

// FuzzCheck holds that no file brings Check down, and that none has it show a
// secret of the broker.
func FuzzCheck(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines := strings.Count(string(b), "\n") + 1
		for _, p := range tikv.Check(b, ours()) {
			if strings.Contains(p.Text("t"), ourSecret) {
				t.Fatalf("it shows a secret: %v", p)
			}
			if p.Line < 0 || p.Line > lines || (p.Line == 0) != (p.Column == 0) {
				t.Fatalf("%v: there are %d lines", p, lines)
			}
		}
	})
}
