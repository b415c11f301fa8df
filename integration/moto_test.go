package integration_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// moto is the emulator of AWS that is most used, in a process of its own. It
// encrypts for real, and does not model all that KMS refuses (deviations).
type moto struct {
	t       *testing.T
	address string // of plain HTTP
	stderr  *logs
}

// The region that everything is in, and the credentials, which moto does not
// look at.
const (
	awsRegion    = "eu-central-1"
	awsAccessKey = "AKIAIOSFODNN7EXAMPLE"
	awsSecretKey = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
)

var motoAddress = regexp.MustCompile(`Running on http://(127\.0\.0\.1:\d+)`)

// startMoto starts moto for the test. `make integration` installs it.
func startMoto(t *testing.T) *moto {
	t.Helper()
	path := os.Getenv("KEYBROKER_MOTO")
	if _, err := os.Stat(path); path == "" || err != nil {
		const why = "KEYBROKER_MOTO does not name moto_server; `make integration` installs it if python3 can make a venv (python3-venv)"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	m := &moto{t: t, stderr: &logs{}}
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "-H", "127.0.0.1", "-p", "0")
	cmd.Stdout, cmd.Stderr = in, in
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") }) // boto reads them
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = in.Close()
	read := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
		<-read
	})
	lines := bufio.NewReader(io.TeeReader(out, m.stderr))
	for m.address == "" {
		line, err := lines.ReadString('\n')
		if err != nil {
			close(read)
			t.Fatalf("moto did not start: %v\n%s", err, m.stderr)
		}
		if found := motoAddress.FindStringSubmatch(line); found != nil {
			m.address = found[1]
		}
	}
	go func() { // moto logs every request
		defer close(read)
		_, _ = io.Copy(io.Discard, lines)
		_ = out.Close()
	}()
	return m
}

// call makes a call of KMS's API, as its administrator.
func (m *moto) call(operation string, in, out any) {
	m.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		m.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(m.t.Context(), http.MethodPost, "http://"+m.address+"/", bytes.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-amz-json-1.1")
	req.Header.Set("X-Amz-Target", "TrentService."+operation)
	req.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+awsAccessKey+"/20260101/"+awsRegion+"/kms/aws4_request, SignedHeaders=host, Signature=none")
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatalf("moto: %s: %v\n%s", operation, err, m.stderr)
	}
	defer r.Body.Close()
	answer, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		m.t.Fatalf("moto: %s: %s: %v: %s", operation, r.Status, err, answer)
	}
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			m.t.Fatalf("moto: %s: %v: %s", operation, err, answer)
		}
	}
}

// newKey makes a symmetric key and returns its ARN.
func (m *moto) newKey() string {
	m.t.Helper()
	var made struct{ KeyMetadata struct{ Arn string } }
	m.call("CreateKey", map[string]any{}, &made)
	return made.KeyMetadata.Arn
}

// awsEnvironment is the broker's environment: credentials, and nothing of this
// machine's configuration of AWS.
func awsEnvironment() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + awsAccessKey, "AWS_SECRET_ACCESS_KEY=" + awsSecretKey, "AWS_SESSION_TOKEN=",
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null",
		"AWS_PROFILE=", "AWS_ENDPOINT_URL=", "AWS_ENDPOINT_URL_KMS=", "AWS_CA_BUNDLE=",
	}
}
