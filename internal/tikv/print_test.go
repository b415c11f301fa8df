package tikv_test

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"go.yaml.in/yaml/v4"

	"github.com/keybroker/keybroker/internal/tikv"
)

func setting() tikv.Setting {
	return tikv.Setting{
		Endpoint: "http://127.0.0.1:7480", Region: "us-east-1", KeyID: "tikv",
		AccessKeyID: "KBOURS", SecretFile: "/etc/ours.secret", Secret: ourSecret,
	}
}

// stores are the configurations of stores in a block, as TOML.
func stores(t *testing.T, b tikv.Block) []string {
	t.Helper()
	text := b.Comment + setting().Notes() + b.Text
	switch b.For {
	case "tikv", "tiflash":
		return []string{text}
	case "tiup":
		var topology struct {
			Configs map[string]map[string]any `yaml:"server_configs"`
		}
		if err := yaml.Load([]byte(text), &topology); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		var all []string
		for _, name := range []string{"tikv", "tiflash-learner"} {
			var lines strings.Builder
			for key, value := range topology.Configs[name] { // TiUP writes them as TOML
				line, err := toml.Marshal(map[string]any{"x": value})
				if err != nil {
					t.Fatal(err)
				}
				lines.WriteString(key + strings.TrimPrefix(string(line), "x"))
			}
			all = append(all, lines.String())
		}
		return all
	default:
		first, second, found := strings.Cut(text, "\n---\n")
		if !found {
			t.Fatalf("one document:\n%s", text)
		}
		var group struct {
			Kind string
			Spec struct {
				Template struct {
					Spec struct{ Config string }
				}
			}
		}
		var cluster struct {
			Kind string
			Spec struct {
				TiKV struct{ Config string } `yaml:"tikv"`
			}
		}
		if err := yaml.Load([]byte(first), &group); err != nil || group.Kind != "TiKVGroup" {
			t.Fatalf("%v in\n%s", err, first)
		}
		if err := yaml.Load([]byte(second), &cluster); err != nil || cluster.Kind != "TidbCluster" {
			t.Fatalf("%v in\n%s", err, second)
		}
		return []string{group.Spec.Template.Spec.Config, cluster.Spec.TiKV.Config}
	}
}

// TestPrintIsWell holds that what is printed is what it says it is, and that Check
// finds nothing wrong with it.
func TestPrintIsWell(t *testing.T) {
	for _, name := range tikv.Blocks() {
		t.Run(name, func(t *testing.T) {
			b, err := tikv.Print(name, setting())
			if err != nil {
				t.Fatal(err)
			}
			if b.For != name || b.File == "" {
				t.Errorf("%+v", b)
			}
			for line := range strings.Lines(b.Comment + setting().Notes()) {
				if !strings.HasPrefix(line, "#") {
					t.Errorf("not a comment: %s", line)
				}
			}
			all := stores(t, b)
			if want := map[bool]int{true: 1, false: 2}[strings.HasPrefix(b.File, "ti")]; len(all) != want {
				t.Errorf("%d configurations, want %d", len(all), want)
			}
			for _, file := range all {
				for _, p := range tikv.Check([]byte(file), ours()) {
					t.Errorf("%s in\n%s", p.Text(b.File), file)
				}
			}
		})
	}
	if _, err := tikv.Print("tidb", setting()); err == nil || !strings.Contains(err.Error(), "tiup") {
		t.Errorf("of what there is not: %v", err)
	}
}

// TestPreviousIsWell holds that the comment on previous-master-key is right once
// its lines are no comment.
func TestPreviousIsWell(t *testing.T) {
	b, err := tikv.Print("tikv", setting())
	if err != nil {
		t.Fatal(err)
	}
	file := regexp.MustCompile(`(?m)^# (\[security.*previous.*|type = .*|path = .*)$`).ReplaceAllString(b.Text, "$1")
	if !strings.Contains(file, "\n[security.encryption.previous-master-key]\ntype = ") {
		t.Fatalf("there is none:\n%s", file)
	}
	if problems := tikv.Check([]byte(file), ours()); len(problems) > 0 {
		t.Errorf("%v", problems)
	}
}

func TestPrintWithoutSecret(t *testing.T) {
	s := setting()
	s.Secret = ""
	for _, name := range tikv.Blocks() {
		b, err := tikv.Print(name, s)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range stores(t, b) {
			problems := tikv.Check([]byte(file), ours())
			if len(problems) != 1 || problems[0].Found != "a placeholder" || problems[0].Want != "the content of /etc/ours.secret" {
				t.Errorf("%s: %v", name, problems)
			}
		}
	}
	if strings.Contains(setting().Notes(), ourSecret) {
		t.Error("the notes show the secret")
	}
}

// TestPrintQuotes holds that no secret breaks what is around it.
func TestPrintQuotes(t *testing.T) {
	s := setting()
	s.Secret = "a\"b\\c\x7f\td#': é" + ourSecret
	for _, name := range tikv.Blocks() {
		b, err := tikv.Print(name, s)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range stores(t, b) {
			var got struct {
				Security struct {
					Encryption struct {
						MasterKey struct {
							AWS struct {
								Secret string `toml:"secret-access-key"`
							} `toml:"aws"`
						} `toml:"master-key"`
					}
				}
			}
			if err := toml.Unmarshal([]byte(file), &got); err != nil || got.Security.Encryption.MasterKey.AWS.Secret != s.Secret {
				t.Errorf("%s: %v, %q", name, err, got.Security.Encryption.MasterKey.AWS.Secret)
			}
		}
	}
}

// TestNotesHaveAURLForBR reads the URL of the notes as BR does.
func TestNotesHaveAURLForBR(t *testing.T) {
	text := regexp.MustCompile(`"(aws-kms:.*)"`).FindStringSubmatch(setting().Notes())
	if text == nil {
		t.Fatal(setting().Notes())
	}
	u, err := url.Parse(text[1])
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"REGION": "us-east-1", "ENDPOINT": "http://127.0.0.1:7480", "AWS_ACCESS_KEY_ID": "KBOURS", "AWS_SECRET_ACCESS_KEY": "$(cat /etc/ours.secret)",
	} {
		if got := u.Query().Get(name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if u.Path != "/tikv" || u.Scheme != "aws-kms" {
		t.Errorf("%+v", u)
	}
}

// TestNotesReadTheSecretOfAnyPath has a shell read what it would for BR.
func TestNotesReadTheSecretOfAnyPath(t *testing.T) {
	for _, name := range []string{"br.secret", "it's $(echo no) of `echo no`;\"all\".secret", "a'b'' c", "*"} {
		s := setting()
		s.SecretFile = filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(s.SecretFile, []byte("its-content"), 0o600); err != nil {
			t.Fatal(err)
		}
		argument := regexp.MustCompile(`--master-key (".*")`).FindStringSubmatch(s.Notes())
		if argument == nil {
			t.Fatal(s.Notes())
		}
		out, err := exec.CommandContext(t.Context(), "sh", "-c", "printf %s "+argument[1]).CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), "AWS_SECRET_ACCESS_KEY=its-content") {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
}
