package integration_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

// awsRequest is one call of AWS KMS's API: members by AWS's names, byte strings as
// []byte.
type awsRequest struct {
	operation string
	in        map[string]any
}

// awsCaller is who makes calls, and where.
type awsCaller struct {
	endpoint, region  string
	accessKey, secret string
	// skew is how far its clock is off.
	skew time.Duration
	// caFile has the endpoint's certificate, if it is by TLS.
	caFile string
}

// awsAnswer is what a client tells: members with byte strings in base64, or a code.
type awsAnswer struct {
	Code    string
	Out     map[string]any
	Message string
}

func (a awsAnswer) bytes(t *testing.T, member string) []byte {
	t.Helper()
	text, _ := a.Out[member].(string)
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || a.Code != "" || len(b) == 0 {
		t.Fatalf("there is no %s in %+v (%v)", member, a, err)
	}
	return b
}

// awsClient is a real client of AWS's.
type awsClient interface {
	do(t *testing.T, c awsCaller, r awsRequest) awsAnswer
}

// awsClients are those under test, by name. The program of the AWS CLI stands beside
// the Python that has boto3.
func awsClients(t *testing.T) map[string]awsClient {
	t.Helper()
	return map[string]awsClient{"aws-sdk-go-v2": goSDK{}, "AWS CLI": awsCLI{awsProgram(t, "aws")}, "boto3": newBoto3(t)}
}

// awsProgram is a program beside the AWS CLI. `make integration` installs it.
func awsProgram(t *testing.T, name string) string {
	t.Helper()
	path := os.Getenv("KEYBROKER_AWSCLI")
	if _, err := os.Stat(path); path == "" || err != nil {
		const why = "KEYBROKER_AWSCLI does not name the AWS CLI; `make integration` installs it if python3 can make a venv (python3-venv)"
		if os.Getenv("CI") == "true" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	return filepath.Join(filepath.Dir(path), name)
}

// awsClientEnvironment has nothing of this machine's configuration of AWS, and two
// tries where the client has a choice.
func awsClientEnvironment(c awsCaller) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "AWS_") })
	if c.caFile != "" {
		env = append(env, "AWS_CA_BUNDLE="+c.caFile)
	}
	return append(env, "AWS_ACCESS_KEY_ID="+c.accessKey, "AWS_SECRET_ACCESS_KEY="+c.secret, "AWS_REGION="+c.region, "AWS_DEFAULT_REGION="+c.region,
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_MAX_ATTEMPTS=2")
}

// goSDK is aws-sdk-go-v2, as BR uses it.
type goSDK struct{}

func (goSDK) do(t *testing.T, c awsCaller, r awsRequest) awsAnswer {
	t.Helper()
	roots := x509.NewCertPool()
	if c.caFile != "" {
		b, err := os.ReadFile(c.caFile)
		if err != nil || !roots.AppendCertsFromPEM(b) {
			t.Fatalf("%s: %v", c.caFile, err)
		}
	}
	transport := awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) {
		tr.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	})
	client := kms.New(kms.Options{
		BaseEndpoint: aws.String(c.endpoint), Region: c.region, RetryMaxAttempts: 2, HTTPClient: transport,
		HTTPSignerV4: skewedSigner{c.skew},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: c.accessKey, SecretAccessKey: c.secret, Source: "test"}, nil
		}),
	})
	text := func(member string) *string {
		s, ok := r.in[member].(string)
		if !ok {
			return nil
		}
		return &s
	}
	pairs := func(member string) map[string]string {
		m, _ := r.in[member].(map[string]string)
		return m
	}
	blob := func(member string) []byte { b, _ := r.in[member].([]byte); return b }
	var out any
	var err error
	switch r.operation {
	case opGenerate:
		out, err = client.GenerateDataKey(t.Context(), &kms.GenerateDataKeyInput{
			KeyId: text("KeyId"), KeySpec: types.DataKeySpecAes256, EncryptionContext: pairs("EncryptionContext"),
		})
	case opDecrypt:
		out, err = client.Decrypt(t.Context(), &kms.DecryptInput{
			KeyId: text("KeyId"), CiphertextBlob: blob("CiphertextBlob"), EncryptionContext: pairs("EncryptionContext"),
		})
	case "Encrypt":
		out, err = client.Encrypt(t.Context(), &kms.EncryptInput{
			KeyId: text("KeyId"), Plaintext: blob("Plaintext"), EncryptionContext: pairs("EncryptionContext"),
		})
	case "ReEncrypt":
		out, err = client.ReEncrypt(t.Context(), &kms.ReEncryptInput{
			CiphertextBlob: blob("CiphertextBlob"), DestinationKeyId: text("DestinationKeyId"), SourceKeyId: text("SourceKeyId"),
			SourceEncryptionContext: pairs("SourceEncryptionContext"), DestinationEncryptionContext: pairs("DestinationEncryptionContext"),
		})
	default:
		t.Fatalf("no %s", r.operation)
	}
	var refused smithy.APIError
	if errors.As(err, &refused) {
		return awsAnswer{Code: refused.ErrorCode(), Message: refused.ErrorMessage()}
	}
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	a := awsAnswer{}
	if err := json.Unmarshal(b, &a.Out); err != nil {
		t.Fatal(err)
	}
	return a
}

// skewedSigner is the SDK's own, by a clock that is off.
type skewedSigner struct{ skew time.Duration }

// SignHTTP implements kms.HTTPSignerV4.
func (s skewedSigner) SignHTTP(ctx context.Context, c aws.Credentials, r *http.Request, hash, service, region string, at time.Time, opts ...func(*v4.SignerOptions)) error {
	return v4.NewSigner().SignHTTP(ctx, c, r, hash, service, region, at.Add(s.skew), opts...)
}

// awsCLI is the AWS CLI, a process for each call.
type awsCLI struct{ path string }

var (
	upper   = regexp.MustCompile(`([a-z])([A-Z])`)
	refusal = regexp.MustCompile(`An error occurred \((\w+)\) when calling the \w+ operation[^:]*: (.*)`)
)

// skewedCLI is the AWS CLI by a clock that is off by its first argument.
const skewedCLI = `
import datetime, sys
import awscli.clidriver
import botocore.auth # the CLI's own, once the CLI is there
now = botocore.auth.get_current_datetime
skew = datetime.timedelta(seconds=float(sys.argv.pop(1)))
botocore.auth.get_current_datetime = lambda *a, **k: now(*a, **k) + skew
sys.exit(awscli.clidriver.main())
`

func (c awsCLI) do(t *testing.T, by awsCaller, r awsRequest) awsAnswer {
	t.Helper()
	kebab := func(s string) string { return strings.ToLower(upper.ReplaceAllString(s, "$1-$2")) }
	args := []string{"kms", kebab(r.operation), "--endpoint-url", by.endpoint, "--output", "json"}
	for _, member := range slices.Sorted(maps.Keys(r.in)) {
		args = append(args, "--"+kebab(member))
		switch v := r.in[member].(type) {
		case []byte:
			path := filepath.Join(t.TempDir(), member)
			if err := os.WriteFile(path, v, 0o600); err != nil {
				t.Fatal(err)
			}
			args = append(args, "fileb://"+path)
		case map[string]string:
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			args = append(args, string(b))
		default:
			args = append(args, fmt.Sprint(v))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if by.skew == 0 {
		args = append([]string{c.path}, args...)
	} else {
		args = append([]string{awsProgram(t, "python3"), "-c", skewedCLI, fmt.Sprint(by.skew.Seconds())}, args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = awsClientEnvironment(by)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if said := refusal.FindStringSubmatch(errs.String()); said != nil {
		return awsAnswer{Code: said[1], Message: said[2]}
	}
	a := awsAnswer{}
	if err == nil {
		err = json.Unmarshal(out.Bytes(), &a.Out)
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, &errs)
	}
	return a
}

// boto3 is boto3 in a process of its own, which stays.
type boto3 struct {
	in  io.Writer
	out *bufio.Scanner
}

// boto3Script makes the calls that it reads, one a line. It signs by a clock that is
// off by as much as the call says.
const boto3Script = `
import base64, datetime, json, sys
import boto3, botocore.auth, botocore.config, botocore.exceptions
now = botocore.auth.get_current_datetime
blobs = ('CiphertextBlob', 'Plaintext')
def plain(v):
    if isinstance(v, bytes):
        return base64.b64encode(v).decode()
    if isinstance(v, datetime.datetime):
        return v.timestamp()
    if isinstance(v, dict):
        return {k: plain(w) for k, w in v.items() if k != 'ResponseMetadata'}
    if isinstance(v, list):
        return [plain(w) for w in v]
    return v
for line in sys.stdin:
    r = json.loads(line)
    skew = datetime.timedelta(seconds=r['skew'])
    botocore.auth.get_current_datetime = lambda *a, **k: now(*a, **k) + skew
    client = boto3.client('kms', endpoint_url=r['endpoint'], region_name=r['region'], verify=r['verify'] or None,
        aws_access_key_id=r['access_key'], aws_secret_access_key=r['secret'],
        config=botocore.config.Config(parameter_validation=False))
    given = {k: base64.b64decode(v) if k in blobs else v for k, v in r['in'].items()}
    try:
        answer = {'Out': plain(client._make_api_call(r['operation'], given))}
    except botocore.exceptions.ClientError as e:
        answer = {'Code': e.response['Error']['Code'], 'Message': e.response['Error']['Message']}
    print(json.dumps(answer), flush=True)
`

func newBoto3(t *testing.T) *boto3 {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), awsProgram(t, "python3"), "-c", boto3Script)
	cmd.Env = awsClientEnvironment(awsCaller{})
	errs := &logs{}
	cmd.Stderr = errs
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait() // it was killed with t.Context
		if t.Failed() && errs.String() != "" {
			t.Logf("boto3: %s", errs)
		}
	})
	return &boto3{in, bufio.NewScanner(out)}
}

func (b *boto3) do(t *testing.T, c awsCaller, r awsRequest) awsAnswer {
	t.Helper()
	line, err := json.Marshal(map[string]any{
		"endpoint": c.endpoint, "region": c.region, "access_key": c.accessKey, "secret": c.secret,
		"skew": c.skew.Seconds(), "verify": c.caFile, "operation": r.operation, "in": r.in,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	if !b.out.Scan() {
		t.Fatalf("boto3 does not answer to %s: %v", line, b.out.Err())
	}
	var a awsAnswer
	if err := json.Unmarshal(b.out.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// caller is one of the store's access key.
func (d *awsDoor) caller() awsCaller {
	return awsCaller{endpoint: "http://" + d.address, region: doorRegion, accessKey: storeAccessKey, secret: storeSecret}
}

// TestAWSClients: AWS's own clients do what they are for, and say what they should when
// they are refused.
func TestAWSClients(t *testing.T) {
	t.Parallel()
	clients := awsClients(t)
	v := startVault(t)
	const arn = "arn:aws:kms:us-east-1:000000000000:key/"
	pairs := map[string]string{"cluster": "prod", "of": "ä/+"}
	for _, name := range slices.Sorted(maps.Keys(clients)) {
		client := clients[name]
		masterKey := strings.ReplaceAll(strings.ToLower(name), " ", "-")
		vault := newVault(t, v, masterKey)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newAWSDoor(t, vault.config, "  tikv: {recipients: "+listOf(vault)+"}\n  other: {recipients: "+listOf(vault)+"}")
			d.start()
			call := func(operation string, in map[string]any) awsAnswer {
				t.Helper()
				return client.do(t, d.caller(), awsRequest{operation, in})
			}
			refused := func(a awsAnswer, code string) {
				t.Helper()
				if a.Code != code {
					t.Errorf("%+v, want %s", a, code)
				}
			}
			from := func(a awsAnswer, key string) awsAnswer {
				t.Helper()
				if a.Out["KeyId"] != arn+key {
					t.Errorf("%+v, want it from %s", a, key)
				}
				return a
			}
			made := from(call(opGenerate, map[string]any{"KeyId": "tikv", "KeySpec": "AES_256", "EncryptionContext": pairs}), "tikv")
			key, blob := made.bytes(t, "Plaintext"), made.bytes(t, "CiphertextBlob")
			if len(key) != 32 {
				t.Errorf("a data key of %d bytes", len(key))
			}
			opened := from(call(opDecrypt, map[string]any{"KeyId": "alias/tikv", "CiphertextBlob": blob, "EncryptionContext": pairs}), "tikv")
			if !bytes.Equal(opened.bytes(t, "Plaintext"), key) || opened.Out["EncryptionAlgorithm"] != "SYMMETRIC_DEFAULT" {
				t.Errorf("it opens to %+v", opened.Out)
			}
			text := []byte("a password, \x00\xff and more")
			blob = from(call("Encrypt", map[string]any{"KeyId": "tikv", "Plaintext": text}), "tikv").bytes(t, "CiphertextBlob")
			moved := from(call("ReEncrypt", map[string]any{"CiphertextBlob": blob, "DestinationKeyId": "other", "DestinationEncryptionContext": pairs}), "other")
			if moved.Out["SourceKeyId"] != arn+"tikv" {
				t.Errorf("moved from %v", moved.Out["SourceKeyId"])
			}
			again := from(call(opDecrypt, map[string]any{"CiphertextBlob": moved.bytes(t, "CiphertextBlob"), "EncryptionContext": pairs}), "other")
			if !bytes.Equal(again.bytes(t, "Plaintext"), text) {
				t.Errorf("moved, it opens to %+v", again.Out)
			}

			mine := map[string]any{"KeyId": "tikv", "CiphertextBlob": blob}
			refused(call(opDecrypt, map[string]any{"KeyId": "other", "CiphertextBlob": blob}), "IncorrectKeyException")
			refused(call(opDecrypt, map[string]any{"KeyId": "nosuch", "CiphertextBlob": blob}), "NotFoundException")
			refused(call(opDecrypt, map[string]any{"KeyId": "tikv", "CiphertextBlob": blob, "EncryptionContext": pairs}), "InvalidCiphertextException")
			as := func(change func(*awsCaller)) awsAnswer {
				t.Helper()
				c := d.caller()
				change(&c)
				return client.do(t, c, awsRequest{opDecrypt, mine})
			}
			refused(as(func(c *awsCaller) { c.secret = outsiderSecret }), "InvalidSignatureException")
			refused(as(func(c *awsCaller) { c.accessKey = awsAccessKey }), "UnrecognizedClientException")
			refused(as(func(c *awsCaller) { c.accessKey, c.secret = outsiderAccessKey, outsiderSecret }), "AccessDeniedException")
			refused(as(func(c *awsCaller) { c.skew = 5 * time.Minute }), "InvalidSignatureException")
			refused(as(func(c *awsCaller) { c.skew = -5 * time.Minute }), "InvalidSignatureException")
			if a := as(func(c *awsCaller) { c.skew = 20 * time.Second }); a.Code != "" {
				t.Errorf("a clock that is off by less than the window: %+v", a)
			}

			vault.link.refuse()
			if a := call(opDecrypt, mine); !bytes.Equal(a.bytes(t, "Plaintext"), text) {
				t.Errorf("by the cache it opens to %+v", a)
			}
			d.purgeByForce("tikv")
			refused(call(opDecrypt, mine), "KMSInternalException")
			vault.link.accept()
			waitFor(t, "the KMS is asked again", func() bool { return call(opDecrypt, mine).Code == "" })

			v.rotate(masterKey)
			v.minDecryption(masterKey, 2)
			d.purgeByForce("tikv")
			refused(call(opDecrypt, mine), "DisabledException")
			v.minDecryption(masterKey, 1)
			waitFor(t, "the master key is usable again", func() bool { return call(opDecrypt, mine).Code == "" })
		})
	}
}

// TestAWSClientPages: the AWS CLI goes through all pages of a list.
func TestAWSClientPages(t *testing.T) {
	t.Parallel()
	cli := awsCLI{awsProgram(t, "aws")}
	backends, _ := fileBackend(t)
	const key = "{recipients: [{backend: local, key: main}], aliases: [%s-a, %[1]s-b]}"
	d := newAWSDoor(t, backends, "  one: "+fmt.Sprintf(key, "x1")+"\n  three: "+fmt.Sprintf(key, "x2")+"\n  two: "+fmt.Sprintf(key, "x3"))
	d.start()
	all := func(operation, list, member string) (found []string) {
		t.Helper()
		a := cli.do(t, d.caller(), awsRequest{operation, map[string]any{"PageSize": 1}})
		items, _ := a.Out[list].([]any)
		for _, item := range items {
			found = append(found, item.(map[string]any)[member].(string))
		}
		return found
	}
	if got := all("ListKeys", "Keys", "KeyId"); !slices.Equal(got, []string{"one", "three", "two"}) {
		t.Errorf("the keys are %v", got)
	}
	want := []string{"alias/x1-a", "alias/x1-b", "alias/x2-a", "alias/x2-b", "alias/x3-a", "alias/x3-b"}
	if got := all("ListAliases", "Aliases", "AliasName"); !slices.Equal(got, want) {
		t.Errorf("the aliases are %v", got)
	}
}

// TestAWSClientsOverTLS: each client, and TiKV's, takes the certificate of a broker that
// is not on loopback alone.
func TestAWSClientsOverTLS(t *testing.T) {
	t.Parallel()
	clients := awsClients(t)
	backends, _ := fileBackend(t)
	d := newAWSDoor(t, "", "")
	certificate := d.certify()
	d.configure(backends, localKeys("tikv"))
	d.start()
	c := d.caller()
	c.endpoint, c.caFile = "https://"+d.address, certificate
	for _, name := range slices.Sorted(maps.Keys(clients)) {
		t.Run(name, func(t *testing.T) {
			made := clients[name].do(t, c, awsRequest{opGenerate, map[string]any{"KeyId": "tikv", "KeySpec": "AES_256"}})
			opened := clients[name].do(t, c, awsRequest{opDecrypt, map[string]any{"KeyId": "tikv", "CiphertextBlob": made.bytes(t, "CiphertextBlob")}})
			if !bytes.Equal(opened.bytes(t, "Plaintext"), made.bytes(t, "Plaintext")) {
				t.Error("it opens to something else")
			}
			unknown := c
			unknown.secret = outsiderSecret
			if a := clients[name].do(t, unknown, awsRequest{opDecrypt, map[string]any{"CiphertextBlob": made.bytes(t, "CiphertextBlob")}}); a.Code != "InvalidSignatureException" {
				t.Errorf("%+v", a)
			}
		})
	}
	t.Run("TiKV's", func(t *testing.T) {
		m := d.masterKey("tikv")
		m.endpoint, m.caFile = c.endpoint, certificate
		call := tikvCall{master: m, divisor: 200, attempt: tikvAttempt, failed: func(int) {}}
		if made, a := call.byRust(t, tikvClient(t)); !made.ok || len(a.plaintext) != 32 {
			t.Errorf("%s", made)
		}
		call.master.caFile = ""
		if made, _ := call.byRust(t, tikvClient(t)); made.String() != "GenerateDataKey tikv: again after ApiTimeout; ApiTimeout" {
			t.Errorf("without the certificate: %s", made)
		}
	})
}

// certify gives the broker a certificate for the loopback address, signed by itself, and
// returns its file.
func (d *awsDoor) certify() string {
	d.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "keybroker"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		d.t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, f := range []struct {
		name, kind string
		der        []byte
	}{{"aws.crt", "CERTIFICATE", certificate}, {"aws.key", "PRIVATE KEY", key}} {
		if err := os.WriteFile(filepath.Join(d.dir, f.name), pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der}), 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
	d.options += ", cert: aws.crt, key: aws.key"
	return filepath.Join(d.dir, "aws.crt")
}

// TestAWSClientOfBR: BR takes its key id from the path of a URL, without a slash in it,
// and opens by aws-sdk-go-v2 what a store has wrapped.
func TestAWSClientOfBR(t *testing.T) {
	t.Parallel()
	d := newFileDoor(t, "tikv")
	d.start()
	made := goSDK{}.do(t, d.caller(), awsRequest{opGenerate, map[string]any{"KeyId": "tikv"}})

	q := url.Values{"REGION": {doorRegion}, "ENDPOINT": {"http://" + d.address}, "AWS_ACCESS_KEY_ID": {storeAccessKey}, "AWS_SECRET_ACCESS_KEY": {storeSecret}}
	u, err := url.Parse("aws-kms:///tikv?" + q.Encode())
	if err != nil {
		t.Fatal(err)
	}
	id := regexp.MustCompile(`^/([^/]+)$`).FindStringSubmatch(u.Path) // br/pkg/task/encryption.go
	if id == nil {
		t.Fatalf("BR does not take %s", u)
	}
	given := u.Query()
	c := awsCaller{endpoint: given.Get("ENDPOINT"), region: given.Get("REGION"), accessKey: given.Get("AWS_ACCESS_KEY_ID"), secret: given.Get("AWS_SECRET_ACCESS_KEY")}
	opened := goSDK{}.do(t, c, awsRequest{opDecrypt, map[string]any{"KeyId": id[1], "CiphertextBlob": made.bytes(t, "CiphertextBlob")}})
	if !bytes.Equal(opened.bytes(t, "Plaintext"), made.bytes(t, "Plaintext")) {
		t.Error("BR opens it to something else")
	}
}
