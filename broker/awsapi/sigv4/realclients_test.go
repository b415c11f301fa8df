package sigv4_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/keybroker/keybroker/broker/awsapi/sigv4"
)

// recorder is a front door without a broker: it verifies each request and answers what
// every client takes for a new data key.
type recorder struct {
	t        *testing.T
	mu       sync.Mutex
	requests []sigv4.Request
	protos   []int
}

func (d *recorder) ServeHTTP(w http.ResponseWriter, hr *http.Request) {
	r := received(d.t, hr)
	d.mu.Lock()
	d.requests = append(d.requests, clone(r))
	d.protos = append(d.protos, hr.ProtoMajor)
	d.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	claim, err := sigv4.Parse(r)
	if err == nil {
		err = claim.Verify([]byte(secret), time.Now(), time.Hour)
	}
	answer := `{"CiphertextBlob":"YQ==","Plaintext":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","KeyId":"arn:aws:kms:us-east-1:000000000000:key/tikv-prod"}`
	var refused *sigv4.Error
	switch {
	case errors.As(err, &refused):
		w.WriteHeader(http.StatusBadRequest)
		answer = fmt.Sprintf(`{"__type":%q,"message":%q}`, refused.Code(), refused.Error())
	case err != nil:
		d.t.Error(err)
	}
	if _, err := io.WriteString(w, answer); err != nil {
		d.t.Error(err)
	}
}

// only returns the one request that came.
func (d *recorder) only() (sigv4.Request, int) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.requests) != 1 {
		d.t.Fatalf("%d requests came", len(d.requests))
	}
	return d.requests[0], d.protos[0]
}

func signedHeaders(t *testing.T, r sigv4.Request) string {
	t.Helper()
	claim, err := sigv4.Parse(r)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(claim.SignedHeaders, ";")
}

func TestRealGoClient(t *testing.T) {
	for _, tt := range []struct {
		name   string
		path   string
		target string
		http2  bool
	}{
		{"plain", "", "/", false},
		{"with a path", "/kms", "/kms", false},
		{"with a path that ends in a slash", "/kms/", "/kms/", false},
		{"with an escaped path", "/kms/a%20b", "/kms/a%20b", false},
		{"with TLS and HTTP/2", "", "/", true},
		{"with HTTP/2 and a path", "/kms/a%20b", "/kms/a%20b", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			door := &recorder{t: t}
			server := httptest.NewUnstartedServer(door)
			if tt.http2 {
				server.EnableHTTP2 = true
				server.StartTLS()
			} else {
				server.Start()
			}
			defer server.Close()
			client := func(secret, token string) *kms.Client {
				return kms.New(kms.Options{
					Region: "us-east-1", BaseEndpoint: aws.String(server.URL + tt.path), HTTPClient: server.Client(),
					Credentials: credentials.NewStaticCredentialsProvider(accessKeyID, secret, token),
					Retryer:     aws.NopRetryer{},
				})
			}
			in := &kms.GenerateDataKeyInput{KeyId: aws.String("tikv-prod"), KeySpec: types.DataKeySpecAes256}
			if _, err := client(secret, "").GenerateDataKey(t.Context(), in); err != nil {
				t.Fatal(err)
			}
			r, proto := door.only()
			if (proto == 2) != tt.http2 || r.RequestURI != tt.target {
				t.Errorf("HTTP/%d to %s", proto, r.RequestURI)
			}
			const want = "amz-sdk-invocation-id;amz-sdk-request;content-length;content-type;host;x-amz-date;x-amz-target"
			if got := signedHeaders(t, r); got != want {
				t.Errorf("it signs %s, the shape of the tests has %s", got, want)
			}
			_, err := client(secret+"x", "").GenerateDataKey(t.Context(), in)
			if err == nil || !strings.Contains(err.Error(), "InvalidSignatureException") {
				t.Errorf("another secret: error %v", err)
			}
			_, err = client(secret, "token").GenerateDataKey(t.Context(), in)
			if err == nil || !strings.Contains(err.Error(), "ExpiredTokenException") {
				t.Errorf("a session token: error %v", err)
			}
		})
	}
}

// TestRealBotocore runs the client of aws-cli, where it is installed (`make moto`).
// `make test` may not install it; `make integration`, where it must not be missing in
// CI, has boto3 and the AWS CLI sign for a whole broker.
func TestRealBotocore(t *testing.T) {
	python, err := filepath.Abs(filepath.Join("..", "..", "..", ".tools", "venv", "bin", "python"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Skip("botocore is missing: make moto installs it; make integration tests it in any case")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	run := func(script string, environment ...string) (string, error) {
		cmd := exec.CommandContext(ctx, python, "-I", "-c", script)
		cmd.Env = append([]string{"HOME=" + t.TempDir(), "AWS_EC2_METADATA_DISABLED=true", "AWS_MAX_ATTEMPTS=1"}, environment...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := run("import botocore.session"); err != nil {
		t.Skipf("botocore is missing: make moto installs it: %s", out)
	}
	const script = `
import os, botocore.session
client = botocore.session.Session().create_client("kms", endpoint_url=os.environ["ENDPOINT"])
print(client.generate_data_key(KeyId="tikv-prod", KeySpec="AES_256")["KeyId"])
`
	for _, tt := range []struct {
		name, path, target, region string
	}{
		{"plain", "", "/", "us-east-1"},
		{"with a path", "/kms", "/kms", "eu-west-1"},
		{"with an escaped path", "/kms/a%20b/", "/kms/a%20b/", "us-east-1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			door := &recorder{t: t}
			server := httptest.NewServer(door)
			defer server.Close()
			environment := []string{
				"ENDPOINT=" + server.URL + tt.path, "AWS_DEFAULT_REGION=" + tt.region,
				"AWS_ACCESS_KEY_ID=" + accessKeyID, "AWS_SECRET_ACCESS_KEY=" + secret,
			}
			out, err := run(script, environment...)
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			r, _ := door.only()
			if r.RequestURI != tt.target {
				t.Errorf("sent to %s", r.RequestURI)
			}
			if got, want := signedHeaders(t, r), "content-type;host;x-amz-date;x-amz-target"; got != want {
				t.Errorf("it signs %s, the shape of the tests has %s", got, want)
			}
			out, err = run(script, append(environment, "AWS_SECRET_ACCESS_KEY="+secret+"x")...)
			if err == nil || !strings.Contains(out, "InvalidSignatureException") {
				t.Errorf("another secret: %s", out)
			}
			out, err = run(script, append(environment, "AWS_SESSION_TOKEN=token")...)
			if err == nil || !strings.Contains(out, "ExpiredTokenException") {
				t.Errorf("a session token: %s", out)
			}
		})
	}
}
