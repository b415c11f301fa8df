package awskms_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awskms"
)

const role = "arn:aws:iam::111122223333:role/keybroker"

func TestNewRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*awskms.Config)
		want   string
	}{
		"no region":              {func(c *awskms.Config) { c.Region = "" }, "region is missing"},
		"a region with a dot":    {func(c *awskms.Config) { c.Region = "eu-central-1.evil" }, "no region"},
		"a region without words": {func(c *awskms.Config) { c.Region = "frankfurt" }, "no region"},
		"an endpoint of no URL":  {func(c *awskms.Config) { c.Endpoint = "kms.example.com" }, "endpoint"},
		"an endpoint's user":     {func(c *awskms.Config) { c.Endpoint = "https://me:password1@kms.example.com" }, "endpoint"},
		"an endpoint's path":     {func(c *awskms.Config) { c.Endpoint = "https://kms.example.com/kms" }, "endpoint"},
		"an endpoint's query":    {func(c *awskms.Config) { c.Endpoint = "https://kms.example.com?x" }, "endpoint"},
		"http":                   {func(c *awskms.Config) { c.Endpoint = "http://kms.example.com" }, "in the clear"},
		"http to an address":     {func(c *awskms.Config) { c.Endpoint = "http://10.0.0.1:80" }, "in the clear"},
		"FIPS and an endpoint":   {func(c *awskms.Config) { c.FIPS, c.Endpoint = true, "https://kms.example.com" }, "fips"},
		"a profile and a token": {func(c *awskms.Config) {
			c.Profile, c.WebIdentity = "x", &awskms.WebIdentity{RoleARN: role, TokenFile: "f"}
		}, "not both"},
		"a role's name": {func(c *awskms.Config) { c.AssumeRole = &awskms.AssumeRole{RoleARN: "keybroker"} }, "role_arn of assume_role"},
		"a user": {func(c *awskms.Config) {
			c.AssumeRole = &awskms.AssumeRole{RoleARN: strings.Replace(role, "role/", "user/", 1)}
		}, "role_arn of assume_role"},
		"a session's name":   {func(c *awskms.Config) { c.AssumeRole = &awskms.AssumeRole{RoleARN: role, SessionName: "a b"} }, "session_name"},
		"no token file":      {func(c *awskms.Config) { c.WebIdentity = &awskms.WebIdentity{RoleARN: role} }, "token_file"},
		"a token's role":     {func(c *awskms.Config) { c.WebIdentity = &awskms.WebIdentity{RoleARN: "x", TokenFile: "f"} }, "role_arn of web_identity"},
		"a negative timeout": {func(c *awskms.Config) { c.Timeout = -1 }, "negative"},
	} {
		cfg := awskms.Config{Region: region}
		test.change(&cfg)
		k, err := awskms.New(cfg)
		if k != nil {
			t.Errorf("%s: a KMS", name)
		}
		fails(t, name, err, backends.InvalidArgument, test.want)
		if strings.Contains(err.Error(), "password1") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewTakes(t *testing.T) {
	for name, cfg := range map[string]awskms.Config{
		"a region":        {Region: "us-gov-west-1", FIPS: true},
		"a VPC endpoint":  {Region: region, Endpoint: "https://vpce-1.kms.eu-central-1.vpce.amazonaws.com/"},
		"localhost":       {Region: region, Endpoint: "http://localhost:4566"},
		"IPv6 loopback":   {Region: region, Endpoint: "http://[::1]:4566"},
		"all credentials": {Region: region, WebIdentity: &awskms.WebIdentity{RoleARN: role, TokenFile: "f"}, AssumeRole: &awskms.AssumeRole{RoleARN: role, ExternalID: "x", SessionName: "tikv-1@prod"}},
	} {
		k, err := awskms.New(cfg)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = k.Close()
	}
}

// recorder notes where requests go, and answers none.
type recorder struct{ hosts []string }

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	r.hosts = append(r.hosts, req.URL.Scheme+"://"+req.URL.Host)
	return nil, errors.New("nobody is there")
}

func TestEndpoints(t *testing.T) {
	for name, test := range map[string]struct {
		cfg         awskms.Config
		environment map[string]string
		want        string
	}{
		"the region's":            {awskms.Config{Region: region}, nil, "https://kms.eu-central-1.amazonaws.com"},
		"FIPS":                    {awskms.Config{Region: "us-east-1", FIPS: true}, nil, "https://kms-fips.us-east-1.amazonaws.com"},
		"FIPS by the environment": {awskms.Config{Region: "us-east-1"}, map[string]string{"AWS_USE_FIPS_ENDPOINT": "true"}, "https://kms-fips.us-east-1.amazonaws.com"},
		"China's":                 {awskms.Config{Region: "cn-north-1"}, nil, "https://kms.cn-north-1.amazonaws.com.cn"},
		"another region":          {awskms.Config{Region: region}, map[string]string{"AWS_REGION": "us-east-1"}, "https://kms.eu-central-1.amazonaws.com"},
		"a given one":             {awskms.Config{Region: region, Endpoint: "https://kms.internal"}, map[string]string{"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_ENDPOINT_URL_KMS": "https://elsewhere"}, "https://kms.internal"},
		"the environment's":       {awskms.Config{Region: region}, map[string]string{"AWS_ENDPOINT_URL_KMS": "https://kms.environment"}, "https://kms.environment"},
	} {
		t.Run(name, func(t *testing.T) {
			isolate(t)
			for name, value := range test.environment {
				t.Setenv(name, value)
			}
			r := &recorder{}
			k := open(t, awskms.WithTransport(test.cfg, r))
			key := keyIn(test.cfg.Region, tikvID)
			fails(t, "Check", k.Check(t.Context(), key), backends.Unavailable, "nobody is there")
			if len(r.hosts) != 1 || r.hosts[0] != test.want {
				t.Errorf("asked %q, want %s, once", r.hosts, test.want)
			}
		})
	}
}

// An endpoint of the environment is held to the same as a configured one.
func TestNothingIsSentInTheClear(t *testing.T) {
	for _, endpoint := range []string{"http://kms.example.com", "http://10.0.0.1:4566", "http://localhost.example.com"} {
		isolate(t)
		t.Setenv("AWS_ENDPOINT_URL_KMS", endpoint)
		r := &recorder{}
		k := open(t, awskms.WithTransport(awskms.Config{Region: region}, r))
		_, err := k.Wrap(t.Context(), backends.WrapRequest{Key: tikv, Plaintext: randomBytes(32)})
		fails(t, endpoint, err, backends.InvalidArgument, "in the clear", "environment")
		if len(r.hosts) != 0 {
			t.Errorf("asked %q", r.hosts)
		}
	}
}

// What cannot be a key of this backend is refused before anything is sent.
func TestKeys(t *testing.T) {
	b := newBench(t, nil)
	for name, test := range map[string]struct{ key, want string }{
		"an alias":       {"alias/tikv", "alias"},
		"an id":          {tikvID, "region and account"},
		"another region": {keyIn("us-east-1", tikvID), "us-east-1"},
		"a replica":      {keyIn("us-east-1", multiID), "replica"},
	} {
		_, _, wrapErr := b.wrapErr(test.key)
		b.fails(name+": Wrap", wrapErr, backends.InvalidArgument, test.want)
		_, err := b.unwrap(test.key, backends.Wrapped{Reference: tikv, Binding: backends.BindingAAD, Ciphertext: []byte{1}})
		b.fails(name+": Unwrap", err, backends.InvalidArgument, test.want)
		b.fails(name+": Check", b.kms.Check(t.Context(), test.key), backends.InvalidArgument, test.want)
	}
	for _, size := range []int{0, 65} {
		_, err := b.kms.Wrap(t.Context(), backends.WrapRequest{Key: tikv, Plaintext: make([]byte, size)})
		b.fails("a plaintext's size", err, backends.InvalidArgument)
	}
	_, err := b.kms.Wrap(t.Context(), backends.WrapRequest{Key: tikv, Plaintext: make([]byte, 32), Pairs: map[string]string{"a": "\xff"}})
	b.fails("pairs", err, backends.InvalidArgument, "UTF-8")
	if n := len(b.fake.requests("")); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
}

// What replicas in two regions wrap, each opens, by its own ARN.
func TestMultiRegion(t *testing.T) {
	b := newBench(t, nil)
	w, plaintext := b.wrap(multi)
	east := newFakeKMS()
	east.region = "us-east-1"
	replica := *b.fake.keys[multiID]
	replica.arn = keyIn("us-east-1", multiID)
	east.keys = map[string]*fakeKey{multiID: &replica}
	k := open(t, awskms.WithTransport(awskms.Config{Region: "us-east-1"}, handlerTransport{east}))
	got, err := k.Unwrap(t.Context(), request(replica.arn, w))
	if err != nil || string(got) != string(plaintext) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if seen := east.requests("Decrypt"); len(seen) != 1 || *seen[0].body.KeyId != replica.arn {
		t.Errorf("%+v", seen)
	}
	back, err := k.Wrap(t.Context(), backends.WrapRequest{Key: replica.arn, Plaintext: plaintext, Pairs: somePairs()})
	if err != nil || back.Reference != replica.arn {
		t.Fatalf("%q, %v", back.Reference, err)
	}
	b.opens(multi, back, plaintext)
	east.clean(t)
}

// Each request names the key and the pairs, and is signed; the fake looks at the
// signature.
func TestRequests(t *testing.T) {
	b := newBench(t, nil)
	w, plaintext := b.wrap(tikv)
	b.opens(tikv, w, plaintext)
	if err := b.kms.Check(t.Context(), tikv); err != nil {
		t.Fatal(err)
	}
	seen := b.fake.requests("")
	if len(seen) != 3 {
		t.Fatalf("%d requests for a wrap, an unwrap and a check", len(seen))
	}
	for _, r := range seen {
		if r.body.KeyId == nil || *r.body.KeyId != tikv || len(r.body.EncryptionContext) != 2 || r.body.EncryptionContext["keybroker:key"] != "tikv" || r.access != accessKey {
			t.Errorf("%s: %+v", r.op, r)
		}
	}
	if w.Reference != tikv || w.Version != "" || w.Binding != backends.BindingAAD || w.Provider != "aws-kms" {
		t.Errorf("%+v", w)
	}
}

// A version is held against what KMS says has opened the ciphertext.
func TestVersions(t *testing.T) {
	b := newBench(t, nil)
	w, plaintext := b.wrap(tikv)
	w.Version = b.fake.keys[tikvID].materials[0].id
	b.opens(tikv, w, plaintext)
	w.Version = strings.Repeat("0", 64)
	_, err := b.unwrap(tikv, w)
	b.fails("another material", err, backends.InvalidCiphertext, "key material")
}

func TestTimeout(t *testing.T) {
	b := newBench(t, func(f *fakeKMS, cfg *awskms.Config) {
		cfg.Timeout = 50 * time.Millisecond
		f.instead["Encrypt"] = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	})
	_, _, err := b.wrapErr(tikv)
	b.fails("a KMS that hangs", err, backends.Unavailable, "not waited for")
}
