package integration_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// motoDiffers are all differences between moto's answers and the broker's to the calls
// of compared: of a call, or any call, in a member of the answer or in the code of the
// refusal.
var motoDiffers = []motoDiffer{
	{"GenerateDataKey, no key", codeField, "500", "ValidationException", "moto fails on it"},
	{"GenerateDataKey, dry run", codeField, notRefused, "DryRunOperationException", "moto makes a data key; AWS does not"},
	{anyCall, "EncryptionAlgorithm", absentField, "SYMMETRIC_DEFAULT", "AWS names it"},
	{"Decrypt, by another key", codeField, "AccessDeniedException", "IncorrectKeyException", "AWS's model has it so, and TiKV goes by it"},
	{"Decrypt, of no KMS", codeField, "InvalidCiphertextException", "IncorrectKeyException", "a blob of another KMS has TiKV turn to its previous master key"},
	{"Decrypt, empty", codeField, "InvalidCiphertextException", "ValidationException", "AWS's model asks for at least one byte"},
	{"Decrypt, RSA", codeField, notRefused, "InvalidKeyUsageException", "moto does not look at the algorithm"},
	{"Decrypt, dry run", codeField, notRefused, "DryRunOperationException", "moto opens it; AWS does not"},
	{"ReEncrypt", "DestinationEncryptionAlgorithm", absentField, "SYMMETRIC_DEFAULT", "AWS names it"},
	{"ReEncrypt", "SourceEncryptionAlgorithm", absentField, "SYMMETRIC_DEFAULT", "AWS names it"},
	{"ReEncrypt, from another key", codeField, notRefused, "IncorrectKeyException", "moto does not look at the source key"},
	{anyCall, "KeyMetadata.Description", emptyField, "keybroker key KEY", "a key in the configuration has no text of its own"},
	{anyCall, "KeyMetadata.KeyUsage", absentField, "ENCRYPT_DECRYPT", "AWS names it"},
	{anyCall, "KeyMetadata.MultiRegion", absentField, "false", "AWS has it"},
	{anyCall, "KeyMetadata.SigningAlgorithms", "[]", absentField, "AWS has it for keys that sign"},
	{"ListKeys, one at a time", "Keys[].KeyArn", "arn:key/KEY, arn:key/OTHER", "arn:key/OTHER", "moto does not look at the limit"},
	{"ListKeys, one at a time", "Keys[].KeyId", "KEY, OTHER", "OTHER", "the same"},
	{"ListKeys, one at a time", "NextMarker", absentField, "a marker", "the same"},
	{"ListKeys, one at a time", "Truncated", "false", "true", "the same"},
	{"ListKeys, bad marker", codeField, notRefused, "InvalidMarkerException", "moto does not look at it"},
	{"GenerateRandom, 0 bytes", codeField, notRefused, "ValidationException", "AWS's model asks for at least one"},
	{"CreateAlias", codeField, notRefused, "UnknownOperationException", "keys are made in the configuration"},
}

type motoDiffer struct{ call, field, moto, here, why string }

// compatPage has motoDiffers as a table between the markers.
const (
	compatPage  = "../docs/aws-compat.md"
	motoMarker  = "<!-- moto: held by a test -->"
	motoEnd     = "<!-- moto: end -->"
	codeField   = "the code"
	absentField = "none"
	emptyField  = "nothing"
	notRefused  = "no refusal"
	anyCall     = "any"
)

// comparison is one side of it.
type comparison struct {
	t          *testing.T
	client     awsClient
	caller     awsCaller
	key, other string // ids
	arn        string // of a key, without its id
	calls      []string
	answers    map[string]map[string]string
}

// call makes a call and keeps what is in the answer, without what must differ.
func (c *comparison) call(name, operation string, in map[string]any) awsAnswer {
	c.t.Helper()
	a := c.client.do(c.t, c.caller, awsRequest{operation, in})
	said := map[string]string{codeField: a.Code}
	if a.Code == "" {
		said[codeField] = notRefused
		c.fields(said, "", a.Out)
	}
	if c.answers[name] != nil {
		c.t.Fatalf("two calls are named %q", name)
	}
	c.calls = append(c.calls, name)
	c.answers[name] = said
	return a
}

// fields takes the members of an object apart. Those of a list's objects are put
// together, in order.
func (c *comparison) fields(said map[string]string, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for name, w := range v {
			c.fields(said, strings.TrimPrefix(path+"."+name, "."), w)
		}
	case []any:
		if len(v) == 0 {
			said[path] = "[]"
		}
		parts := map[string][]string{}
		for _, w := range v {
			one := map[string]string{}
			c.fields(one, path+"[]", w)
			for name, text := range one {
				parts[name] = append(parts[name], text)
			}
		}
		for name, texts := range parts {
			slices.Sort(texts)
			said[name] = strings.Join(slices.Compact(texts), ", ")
		}
	default:
		said[path] = c.text(path, v)
	}
}

var (
	dated     = regexp.MustCompile(`Date$`)
	arnOf     = regexp.MustCompile(`arn:aws:kms:[a-z0-9-]+:\d{12}:`)
	accountID = regexp.MustCompile(`^\d{12}$`)
)

func (c *comparison) text(path string, v any) string {
	s, ok := v.(string)
	switch {
	case path == "Plaintext":
		b, _ := base64.StdEncoding.DecodeString(s)
		return fmt.Sprintf("%d bytes", len(b))
	case path == "CiphertextBlob":
		return "a blob"
	case dated.MatchString(path):
		return "a date"
	case path == "NextMarker":
		return "a marker"
	case s == "" && ok:
		return emptyField
	case ok && accountID.MatchString(s):
		return "an account"
	case ok:
		s = arnOf.ReplaceAllString(s, "arn:")
		return strings.NewReplacer(c.other, "OTHER", c.key, "KEY").Replace(s)
	}
	b, err := json.Marshal(v)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(b)
}

// compared are the calls.
func (c *comparison) compared() {
	pairs := map[string]string{"cluster": "prod"}
	key := func(more ...any) map[string]any {
		in := map[string]any{"KeyId": c.key}
		for i := 0; i < len(more); i += 2 {
			in[more[i].(string)] = more[i+1]
		}
		return in
	}
	blob := c.call("GenerateDataKey, AES_256", opGenerate, key("KeySpec", "AES_256")).bytes(c.t, "CiphertextBlob")
	c.call("GenerateDataKey, AES_128", opGenerate, key("KeySpec", "AES_128"))
	c.call("GenerateDataKey, 64 bytes", opGenerate, key("NumberOfBytes", 64))
	c.call("GenerateDataKey, 1024 bytes", opGenerate, key("NumberOfBytes", 1024))
	c.call("GenerateDataKey, 1025 bytes", opGenerate, key("NumberOfBytes", 1025))
	bound := c.call("GenerateDataKey, with a context", opGenerate, key("KeySpec", "AES_256", "EncryptionContext", pairs)).bytes(c.t, "CiphertextBlob")
	c.call("GenerateDataKey, spec and number", opGenerate, key("KeySpec", "AES_256", "NumberOfBytes", 32))
	c.call("GenerateDataKey, neither", opGenerate, key())
	c.call("GenerateDataKey, unknown spec", opGenerate, key("KeySpec", "AES_512"))
	c.call("GenerateDataKey, by alias", opGenerate, map[string]any{"KeyId": "alias/master", "KeySpec": "AES_256"})
	c.call("GenerateDataKey, by ARN", opGenerate, map[string]any{"KeyId": c.arn + c.key, "KeySpec": "AES_256"})
	c.call("GenerateDataKey, unknown key", opGenerate, map[string]any{"KeyId": "alias/nosuch", "KeySpec": "AES_256"})
	c.call("GenerateDataKey, no key", opGenerate, map[string]any{"KeySpec": "AES_256"})
	c.call("GenerateDataKey, dry run", opGenerate, key("KeySpec", "AES_256", "DryRun", true))
	c.call("GenerateDataKeyWithoutPlaintext", "GenerateDataKeyWithoutPlaintext", key("KeySpec", "AES_256"))

	c.call("Decrypt", opDecrypt, key("CiphertextBlob", blob))
	c.call("Decrypt, no key", opDecrypt, map[string]any{"CiphertextBlob": blob})
	c.call("Decrypt, by alias", opDecrypt, map[string]any{"KeyId": "alias/master", "CiphertextBlob": blob})
	c.call("Decrypt, with its context", opDecrypt, key("CiphertextBlob", bound, "EncryptionContext", pairs))
	c.call("Decrypt, without its context", opDecrypt, key("CiphertextBlob", bound))
	c.call("Decrypt, by another key", opDecrypt, map[string]any{"KeyId": c.other, "CiphertextBlob": blob})
	c.call("Decrypt, by an unknown key", opDecrypt, map[string]any{"KeyId": "alias/nosuch", "CiphertextBlob": blob})
	damaged := bytes.Clone(blob)
	damaged[len(damaged)-1] ^= 1
	c.call("Decrypt, damaged", opDecrypt, key("CiphertextBlob", damaged))
	c.call("Decrypt, of no KMS", opDecrypt, key("CiphertextBlob", []byte("what nobody has wrapped, and some more of it")))
	c.call("Decrypt, empty", opDecrypt, key("CiphertextBlob", []byte{}))
	c.call("Decrypt, RSA", opDecrypt, key("CiphertextBlob", blob, "EncryptionAlgorithm", "RSAES_OAEP_SHA_256"))
	c.call("Decrypt, dry run", opDecrypt, key("CiphertextBlob", blob, "DryRun", true))

	text := c.call("Encrypt", "Encrypt", key("Plaintext", []byte("a password"))).bytes(c.t, "CiphertextBlob")
	c.call("Encrypt, 4096 bytes", "Encrypt", key("Plaintext", make([]byte, 4096)))
	c.call("Encrypt, 4097 bytes", "Encrypt", key("Plaintext", make([]byte, 4097)))
	c.call("Encrypt, nothing", "Encrypt", key("Plaintext", []byte{}))
	c.call("Encrypt, unknown key", "Encrypt", map[string]any{"KeyId": "alias/nosuch", "Plaintext": []byte("a")})
	moved := c.call("ReEncrypt", "ReEncrypt", map[string]any{"CiphertextBlob": text, "DestinationKeyId": c.other}).bytes(c.t, "CiphertextBlob")
	c.call("Decrypt, moved", opDecrypt, map[string]any{"KeyId": c.other, "CiphertextBlob": moved})
	c.call("ReEncrypt, from another key", "ReEncrypt", map[string]any{"CiphertextBlob": text, "SourceKeyId": c.other, "DestinationKeyId": c.other})
	c.call("ReEncrypt, to an unknown key", "ReEncrypt", map[string]any{"CiphertextBlob": text, "DestinationKeyId": "alias/nosuch"})

	c.call("DescribeKey", "DescribeKey", key())
	c.call("DescribeKey, by alias", "DescribeKey", map[string]any{"KeyId": "alias/master"})
	c.call("DescribeKey, unknown key", "DescribeKey", map[string]any{"KeyId": "alias/nosuch"})
	c.call("ListKeys", "ListKeys", map[string]any{})
	c.call("ListKeys, one at a time", "ListKeys", map[string]any{"Limit": 1})
	c.call("ListKeys, bad marker", "ListKeys", map[string]any{"Marker": "nosuch"})
	c.call("ListAliases, of a key", "ListAliases", key())
	c.call("ListAliases, of an unknown key", "ListAliases", map[string]any{"KeyId": "alias/nosuch"})
	c.call("GenerateRandom", "GenerateRandom", map[string]any{"NumberOfBytes": 32})
	c.call("GenerateRandom, 0 bytes", "GenerateRandom", map[string]any{"NumberOfBytes": 0})
	c.call("GenerateRandom, 1025 bytes", "GenerateRandom", map[string]any{"NumberOfBytes": 1025})
	c.call("CreateAlias", "CreateAlias", map[string]any{"AliasName": "alias/another", "TargetKeyId": c.key})
}

// TestAWSClientComparesMoto makes the same calls by boto3 to moto and to the broker and
// compares the answers, member by member.
func TestAWSClientComparesMoto(t *testing.T) {
	t.Parallel()
	m := startMoto(t)
	client := newBoto3(t)
	id := func(arn string) (prefix, id string) {
		i := strings.LastIndex(arn, "/") + 1
		return arn[:i], arn[i:]
	}
	theirs := &comparison{
		t: t, client: client, answers: map[string]map[string]string{},
		caller: awsCaller{endpoint: "http://" + m.address, region: awsRegion, accessKey: awsAccessKey, secret: awsSecretKey},
	}
	theirs.arn, theirs.key = id(m.newKey())
	_, theirs.other = id(m.newKey())
	m.call("CreateAlias", map[string]any{"AliasName": "alias/master", "TargetKeyId": theirs.key}, nil)

	backends, _ := fileBackend(t)
	d := newAWSDoor(t, "", "")
	d.options = ", region: " + awsRegion
	d.configure(backends, "  ours: {recipients: [{backend: local, key: main}], aliases: [master]}\n"+localKeys("others"))
	d.start()
	ours := &comparison{
		t: t, client: client, caller: d.caller(), key: "ours", other: "others",
		arn: "arn:aws:kms:" + awsRegion + ":000000000000:key/", answers: map[string]map[string]string{},
	}
	ours.caller.region = awsRegion

	theirs.compared()
	ours.compared()
	found, seen := 0, map[int]bool{}
	for _, call := range ours.calls {
		names := slices.Collect(maps.Keys(ours.answers[call]))
		for name := range theirs.answers[call] {
			if _, both := ours.answers[call][name]; !both {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			moto, there := theirs.answers[call][name]
			if !there {
				moto = absentField
			}
			here, there := ours.answers[call][name]
			if !there {
				here = absentField
			}
			if moto == here || refusedByOne(theirs.answers[call], ours.answers[call], name) {
				continue
			}
			found++
			i := slices.IndexFunc(motoDiffers, func(k motoDiffer) bool {
				return (k.call == call || k.call == anyCall) && k.field == name && k.moto == moto && k.here == here
			})
			if i >= 0 {
				seen[i] = true
			} else {
				t.Errorf("%s, %s: moto has %s, the broker %s, which motoDiffers does not know", call, name, moto, here)
			}
		}
	}
	for i, k := range motoDiffers {
		if !seen[i] {
			t.Errorf("motoDiffers has %+v, which is so no more", k)
		}
	}
	t.Logf("%d calls, %d differences", len(ours.calls), found)
}

// refusedByOne tells whether a member differs because only one of both refuses, which
// the code says already.
func refusedByOne(theirs, ours map[string]string, field string) bool {
	return field != codeField && theirs[codeField] != ours[codeField]
}

// TestMotoTable holds that docs/aws-compat.md tells every difference.
func TestMotoTable(t *testing.T) {
	var want strings.Builder
	want.WriteString("\n| call | in | moto | here | why |\n|---|---|---|---|---|\n")
	for _, k := range motoDiffers {
		fmt.Fprintf(&want, "| %s | %s | %s | %s | %s |\n", k.call, code(k.field), code(k.moto), code(k.here), k.why)
	}
	b, err := os.ReadFile(compatPage)
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(b), motoMarker)
	table, _, ended := strings.Cut(after, motoEnd)
	if !found || !ended || table != want.String() {
		t.Errorf("%s does not have this between %s and %s:\n%s", compatPage, motoMarker, motoEnd, &want)
	}
}

// code is text as Markdown has AWS's names and values.
func code(s string) string {
	if s == codeField || s == absentField || s == emptyField || s == "500" || strings.Contains(s, " ") {
		return s
	}
	return "`" + s + "`"
}
