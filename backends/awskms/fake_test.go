package awskms_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// fakeKMS answers as AWS KMS does, by its JSON 1.1 protocol.
type fakeKMS struct {
	mu     sync.Mutex
	region string
	keys   map[string]*fakeKey // by id
	// accepted are the credentials: secret and session token by access key.
	accepted map[string][2]string
	// skew is what the fake's clock has that the machine's has not.
	skew time.Duration
	// denied operations, and those that may only be used with a pair.
	denied map[string]bool
	// policy, if there is one, must allow the pairs of a cryptographic operation.
	policy func(pairs map[string]string) bool
	// instead answers an operation in the fake's place.
	instead map[string]http.HandlerFunc
	// oldEndpoint knows no dry runs.
	oldEndpoint bool
	seen        []seenRequest
	problems    []string
}

// seenRequest is what came.
type seenRequest struct {
	op     string
	body   fakeRequest
	access string
}

type fakeKey struct {
	arn       string
	state     string
	usage     string
	spec      string
	materials []fakeMaterial
	// store fails though the key is enabled.
	storeDown bool
}

type fakeMaterial struct {
	id   string
	aead cipher.AEAD
}

func newMaterial() fakeMaterial {
	block, err := aes.NewCipher(randomBytes(32))
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return fakeMaterial{hex.EncodeToString(randomBytes(32)), aead}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return b
}

const (
	region  = "eu-central-1"
	account = "111122223333"
	tikvID  = "1234abcd-12ab-34cd-56ef-1234567890ab"
	otherID = "0987dcba-09fe-87dc-65ba-ab0987654321"
	multiID = "mrk-1234abcd12ab34cd56ef1234567890ab"
	gone    = "00000000-0000-4000-8000-000000000000"

	accessKey = "AKIDTESTTESTTESTTEST"
	secretKey = "secret-access-key-of-the-test"
)

// keyIn is the ARN of a key.
func keyIn(region, id string) string { return "arn:aws:kms:" + region + ":" + account + ":key/" + id }

// The keys that a fake has.
var (
	tikv  = keyIn(region, tikvID)
	other = keyIn(region, otherID)
	multi = keyIn(region, multiID)
)

func newFakeKMS() *fakeKMS {
	f := &fakeKMS{
		region: region, keys: map[string]*fakeKey{}, accepted: map[string][2]string{accessKey: {secretKey, ""}},
		denied: map[string]bool{}, instead: map[string]http.HandlerFunc{},
	}
	for _, arn := range []string{tikv, other, multi} {
		_, id, _ := strings.Cut(arn, "/")
		f.keys[id] = &fakeKey{arn: arn, state: "Enabled", usage: "ENCRYPT_DECRYPT", spec: "SYMMETRIC_DEFAULT", materials: []fakeMaterial{newMaterial()}}
	}
	return f
}

// set changes the fake.
func (f *fakeKMS) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// answer has h answer an operation; nil takes that back.
func (f *fakeKMS) answer(op string, h http.HandlerFunc) { f.set(func() { f.instead[op] = h }) }

// requests are those of an operation, or all of them for "".
func (f *fakeKMS) requests(op string) []seenRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []seenRequest
	for _, r := range f.seen {
		if op == "" || r.op == op {
			found = append(found, r)
		}
	}
	return found
}

// fakeRequest has what the operations take.
type fakeRequest struct {
	KeyId             *string
	Plaintext         []byte
	CiphertextBlob    []byte
	EncryptionContext map[string]string
	DryRun            bool
	DryRunModifiers   []string
}

// fakeError is an error of AWS's.
type fakeError struct {
	status        int
	code, message string
}

func refuse(code, message string) *fakeError { return &fakeError{400, code, message} }

// ServeHTTP implements http.Handler.
func (f *fakeKMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	op, _ := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	var req fakeRequest
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	decodeErr := decoder.Decode(&req)

	f.mu.Lock()
	access := accessKeyOf(r)
	f.seen = append(f.seen, seenRequest{op, req, access})
	instead := f.instead[op]
	w.Header().Set("Date", time.Now().Add(f.skew).UTC().Format(http.TimeFormat))
	w.Header().Set("X-Amzn-Requestid", "11111111-2222-3333-4444-555555555555")
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	if decodeErr != nil || r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		f.problems = append(f.problems, fmt.Sprintf("%s %s %s: %v", r.Method, r.URL.Path, op, decodeErr))
	}
	refused := f.authenticate(r, body, access)
	var reply any
	if refused == nil && instead == nil {
		reply, refused = f.do(op, req)
	}
	f.mu.Unlock()

	switch {
	case refused != nil:
		writeError(w, refused)
	case instead != nil:
		r.Body = io.NopCloser(bytes.NewReader(body))
		instead(w, r)
	default:
		_ = json.NewEncoder(w).Encode(reply)
	}
}

func writeError(w http.ResponseWriter, e *fakeError) {
	w.WriteHeader(e.status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": e.code, "message": e.message})
}

// answerError answers with an error of AWS's.
func answerError(status int, code, message string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { writeError(w, &fakeError{status, code, message}) }
}

// answerText answers with any text.
func answerText(status int, contentType, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}
}

func accessKeyOf(r *http.Request) string {
	_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	access, _, _ := strings.Cut(rest, "/")
	return access
}

// authenticate checks the signature of a request. f.mu is held.
func (f *fakeKMS) authenticate(r *http.Request, body []byte, access string) *fakeError {
	secrets, ok := f.accepted[access]
	if !ok {
		return refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	if r.Header.Get("X-Amz-Security-Token") != secrets[1] {
		return refuse("ExpiredTokenException", "The security token included in the request is expired")
	}
	date := r.Header.Get("X-Amz-Date")
	signed, err := time.Parse("20060102T150405Z", date)
	if now := time.Now().Add(f.skew); err != nil || now.Sub(signed).Abs() > 5*time.Minute {
		return refuse("InvalidSignatureException", "Signature expired: "+date+" is now earlier than "+now.Add(-5*time.Minute).UTC().Format("20060102T150405Z")+" ("+now.UTC().Format("20060102T150405Z")+" - 5 min.)")
	}
	if !signedAs(r, body, access, secrets, f.region, signed) {
		return refuse("InvalidSignatureException", "The request signature we calculated does not match the signature you provided. The Canonical String for this request should have been 'POST\n/\n\nx-amz-security-token:"+secrets[1]+"'")
	}
	return nil
}

// signedAs signs the request anew, and compares.
func signedAs(r *http.Request, body []byte, access string, secrets [2]string, region string, at time.Time) bool {
	again, err := http.NewRequest(r.Method, "http://"+r.Host+r.URL.Path, bytes.NewReader(body))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "SignedHeaders=")
	names, _, _ := strings.Cut(rest, ",")
	for name := range strings.SplitSeq(names, ";") {
		if name != "host" && name != "content-length" {
			again.Header.Set(name, r.Header.Get(name))
		}
	}
	sum := sha256.Sum256(body)
	err = v4.NewSigner().SignHTTP(context.Background(), aws.Credentials{AccessKeyID: access, SecretAccessKey: secrets[0], SessionToken: secrets[1]},
		again, hex.EncodeToString(sum[:]), "kms", region, at)
	return err == nil && again.Header.Get("Authorization") == r.Header.Get("Authorization")
}

// do does an operation. f.mu is held.
func (f *fakeKMS) do(op string, req fakeRequest) (any, *fakeError) {
	if req.KeyId == nil {
		f.problems = append(f.problems, op+" names no key")
		return nil, refuse("ValidationException", "no KeyId")
	}
	id := strings.TrimPrefix(*req.KeyId, "arn:aws:kms:"+f.region+":"+account+":key/")
	key := f.keys[id]
	if key == nil {
		return nil, refuse("NotFoundException", "Key '"+*req.KeyId+"' does not exist")
	}
	denied := refuse("AccessDeniedException", "User: arn:aws:sts::111122223333:assumed-role/keybroker/i-1 is not authorized to perform: kms:"+op+" on resource: "+key.arn+" because no identity-based policy allows the kms:"+op+" action")
	if f.denied[op] {
		return nil, denied
	}
	if op == "DescribeKey" {
		return map[string]any{"KeyMetadata": map[string]any{
			"Arn": key.arn, "KeyId": id, "KeyState": key.state, "Enabled": key.state == "Enabled",
			"KeyUsage": key.usage, "KeySpec": key.spec, "CreationDate": 1.7e9,
		}}, nil
	}
	if f.policy != nil && !f.policy(req.EncryptionContext) {
		return nil, denied
	}
	ignore := req.DryRun && len(req.DryRunModifiers) == 1 && req.DryRunModifiers[0] == "IGNORE_CIPHERTEXT"
	switch {
	case ignore && f.oldEndpoint:
		return nil, refuse("ValidationException", "1 validation error detected: Value null at 'ciphertextBlob' failed to satisfy constraint: Member must not be null")
	case ignore:
		// It looks at nothing but permissions.
		return nil, &fakeError{412, "DryRunOperationException", "The request would have succeeded, but the DryRun option is set."}
	case key.usage != "ENCRYPT_DECRYPT":
		return nil, refuse("InvalidKeyUsageException", key.arn+" key usage is "+key.usage)
	case key.state == "Disabled":
		return nil, refuse("DisabledException", key.arn+" is disabled.")
	case key.state != "Enabled":
		return nil, refuse("KMSInvalidStateException", key.arn+" is pending "+key.state)
	case key.storeDown:
		return nil, refuse("KMSInvalidStateException", "the custom key store does not answer")
	}
	switch op {
	case "Encrypt":
		if n := len(req.Plaintext); n < 1 || n > 4096 {
			return nil, refuse("ValidationException", "plaintext")
		}
		number := len(key.materials) - 1
		blob := append(blobHead(id), byte(number))
		blob = append(blob, key.materials[number].aead.Seal(nil, nil, req.Plaintext, associated(id, number, req.EncryptionContext))...)
		return map[string]any{"KeyId": key.arn, "CiphertextBlob": blob, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, nil
	case "Decrypt":
		invalid := refuse("InvalidCiphertextException", "")
		if n := len(req.CiphertextBlob); n < 1 || n > 6144 {
			return nil, refuse("ValidationException", "ciphertextBlob")
		}
		head, rest := blobHead(id), req.CiphertextBlob
		if len(rest) < len(head)+1 {
			return nil, invalid
		}
		if !bytes.HasPrefix(rest, head) {
			for otherID := range f.keys {
				if bytes.HasPrefix(rest, blobHead(otherID)) {
					return nil, refuse("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
				}
			}
			return nil, invalid
		}
		number := int(rest[len(head)])
		if number >= len(key.materials) {
			return nil, invalid
		}
		plaintext, err := key.materials[number].aead.Open(nil, nil, rest[len(head)+1:], associated(id, number, req.EncryptionContext))
		if err != nil {
			return nil, invalid
		}
		return map[string]any{"KeyId": key.arn, "Plaintext": plaintext, "KeyMaterialId": key.materials[number].id, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, nil
	}
	f.problems = append(f.problems, "no operation "+op)
	return nil, refuse("UnknownOperationException", op)
}

// blobHead begins the ciphertexts of a key.
func blobHead(id string) []byte {
	sum := sha256.Sum256([]byte(id))
	return append([]byte{1, 2, 2, 0}, sum[:16]...)
}

func associated(id string, number int, pairs map[string]string) []byte {
	if len(pairs) == 0 {
		pairs = nil
	}
	b, err := json.Marshal([]any{id, number, pairs}) // sorted by name
	if err != nil {
		panic(err)
	}
	return b
}

// clean fails the test if something came that KMS would not understand.
func (f *fakeKMS) clean(t testing.TB) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.problems {
		t.Error(p)
	}
}
