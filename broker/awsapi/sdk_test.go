package awsapi_test

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/smithy-go"
)

// TestSDK calls every operation as aws-sdk-go-v2 does, over HTTP/1.1 and HTTP/2.
func TestSDK(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change []func(*fixture)
		proto  string
	}{{"http", nil, "HTTP/1.1"}, {"https", []func(*fixture){withTLS}, "HTTP/2.0"}} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t, tc.change...)
			response, err := f.client.Do(f.request("ListKeys", `{}`))
			if err != nil {
				t.Fatal(err)
			}
			if f.read(response); response.Proto != tc.proto {
				t.Errorf("spoken is %s, want %s", response.Proto, tc.proto)
			}
			testSDK(t, f)
		})
	}
}

func testSDK(t *testing.T, f *fixture) {
	ctx, tikv := t.Context(), arn("key/tikv")
	pairs := map[string]string{"cluster": "prod", "": "ä / + \" \\ \u2028"}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}

	// What TiKV does, and its ids in every form.
	for _, id := range []string{"tikv", "alias/tikv", "alias/tikv-master", tikv, arn("alias/tikv-master"), strings.Replace(tikv, "arn:aws:", "arn:aws-cn:", 1)} {
		g, err := f.keys.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &id, KeySpec: types.DataKeySpecAes256})
		must(err)
		if len(g.Plaintext) != 32 || *g.KeyId != tikv || len(g.CiphertextBlob) == 0 {
			t.Fatalf("%s: %+v", id, g)
		}
		d, err := f.keys.Decrypt(ctx, &kms.DecryptInput{KeyId: &id, CiphertextBlob: g.CiphertextBlob})
		must(err)
		if !bytes.Equal(d.Plaintext, g.Plaintext) || *d.KeyId != tikv || d.EncryptionAlgorithm != types.EncryptionAlgorithmSpecSymmetricDefault {
			t.Fatalf("%s: %+v", id, d)
		}
	}

	for name, tc := range map[string]struct {
		in   kms.GenerateDataKeyInput
		size int
	}{
		"AES_128":    {kms.GenerateDataKeyInput{KeySpec: types.DataKeySpecAes128}, 16},
		"1 byte":     {kms.GenerateDataKeyInput{NumberOfBytes: aws.Int32(1)}, 1},
		"1024 bytes": {kms.GenerateDataKeyInput{NumberOfBytes: aws.Int32(1024)}, 1024},
		"context":    {kms.GenerateDataKeyInput{NumberOfBytes: aws.Int32(32), EncryptionContext: pairs, GrantTokens: []string{"ignored"}}, 32},
	} {
		tc.in.KeyId = aws.String("tikv")
		g, err := f.keys.GenerateDataKey(ctx, &tc.in)
		must(err)
		if len(g.Plaintext) != tc.size {
			t.Errorf("%s: %d bytes", name, len(g.Plaintext))
		}
		d, err := f.keys.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: g.CiphertextBlob, EncryptionContext: tc.in.EncryptionContext})
		must(err)
		if !bytes.Equal(d.Plaintext, g.Plaintext) {
			t.Errorf("%s: another data key", name)
		}
		if r := f.last(); !maps.Equal(r.Context, tc.in.EncryptionContext) || r.Client.Name != "me" || r.Client.Method != "Decrypt" {
			t.Errorf("%s: recorded as %+v", name, r)
		}
	}

	w, err := f.keys.GenerateDataKeyWithoutPlaintext(ctx, &kms.GenerateDataKeyWithoutPlaintextInput{KeyId: aws.String("tikv"), KeySpec: types.DataKeySpecAes256})
	must(err)
	d, err := f.keys.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: w.CiphertextBlob})
	must(err)
	if len(d.Plaintext) != 32 || *w.KeyId != tikv {
		t.Errorf("GenerateDataKeyWithoutPlaintext: %+v", w)
	}

	for _, plaintext := range [][]byte{{0}, bytes.Repeat([]byte{0xfb, 0xff}, 2048)} {
		e, err := f.keys.Encrypt(ctx, &kms.EncryptInput{KeyId: aws.String("tikv"), Plaintext: plaintext, EncryptionContext: pairs})
		must(err)
		if *e.KeyId != tikv || e.EncryptionAlgorithm != types.EncryptionAlgorithmSpecSymmetricDefault {
			t.Errorf("Encrypt: %+v", e)
		}
		r, err := f.keys.ReEncrypt(ctx, &kms.ReEncryptInput{
			CiphertextBlob: e.CiphertextBlob, SourceKeyId: &tikv, SourceEncryptionContext: pairs,
			DestinationKeyId: aws.String("other"), DestinationEncryptionContext: map[string]string{"a": "b"},
		})
		must(err)
		if *r.SourceKeyId != tikv || *r.KeyId != arn("key/other") ||
			r.SourceEncryptionAlgorithm != types.EncryptionAlgorithmSpecSymmetricDefault || r.DestinationEncryptionAlgorithm != types.EncryptionAlgorithmSpecSymmetricDefault {
			t.Errorf("ReEncrypt: %+v", r)
		}
		d, err := f.keys.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: r.CiphertextBlob, EncryptionContext: map[string]string{"a": "b"}})
		must(err)
		if !bytes.Equal(d.Plaintext, plaintext) || *d.KeyId != arn("key/other") {
			t.Errorf("Decrypt after ReEncrypt: %+v", d.KeyId)
		}
		// A destination's context that is left out is none.
		r, err = f.keys.ReEncrypt(ctx, &kms.ReEncryptInput{CiphertextBlob: e.CiphertextBlob, SourceEncryptionContext: pairs, DestinationKeyId: &tikv})
		must(err)
		d, err = f.keys.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: r.CiphertextBlob})
		must(err)
		if !bytes.Equal(d.Plaintext, plaintext) {
			t.Error("Decrypt without a context: another plaintext")
		}
	}

	m, err := f.keys.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String("alias/tikv-master")})
	must(err)
	if k := m.KeyMetadata; *k.KeyId != "tikv" || *k.Arn != tikv || !k.Enabled || k.KeyState != types.KeyStateEnabled || k.KeyUsage != types.KeyUsageTypeEncryptDecrypt ||
		k.KeySpec != types.KeySpecSymmetricDefault || k.CreationDate.Unix() != 0 || *k.AWSAccountId != account || k.KeyManager != types.KeyManagerTypeCustomer {
		t.Errorf("DescribeKey: %+v", k)
	}

	random, err := f.keys.GenerateRandom(ctx, &kms.GenerateRandomInput{NumberOfBytes: aws.Int32(1024)})
	must(err)
	if len(random.Plaintext) != 1024 || bytes.Equal(random.Plaintext, make([]byte, 1024)) {
		t.Errorf("GenerateRandom: %d bytes", len(random.Plaintext))
	}

	keys, err := f.keys.ListKeys(ctx, &kms.ListKeysInput{})
	must(err)
	if len(keys.Keys) != 2 || *keys.Keys[0].KeyId != "other" || *keys.Keys[1].KeyArn != tikv || keys.Truncated {
		t.Errorf("ListKeys: %+v", keys)
	}
	aliases, err := f.keys.ListAliases(ctx, &kms.ListAliasesInput{KeyId: &tikv})
	must(err)
	if len(aliases.Aliases) != 1 || *aliases.Aliases[0].AliasName != "alias/tikv-master" || *aliases.Aliases[0].AliasArn != arn("alias/tikv-master") || *aliases.Aliases[0].TargetKeyId != "tikv" {
		t.Errorf("ListAliases: %+v", aliases)
	}

	// A dry run that would have succeeded, and one that would not.
	_, err = f.keys.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: aws.String("tikv"), KeySpec: types.DataKeySpecAes256, DryRun: aws.Bool(true)})
	if dry := new(types.DryRunOperationException); !errors.As(err, &dry) {
		t.Errorf("a dry run: %v", err)
	}
	_, err = f.keys.Decrypt(ctx, &kms.DecryptInput{KeyId: aws.String("other"), CiphertextBlob: w.CiphertextBlob, DryRun: aws.Bool(true)})
	if wrong := new(types.IncorrectKeyException); !errors.As(err, &wrong) {
		t.Errorf("a dry run with the wrong key: %v", err)
	}
	_, err = f.keys.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: w.CiphertextBlob, Recipient: &types.RecipientInfo{AttestationDocument: []byte("x")}})
	if no := new(types.UnsupportedOperationException); !errors.As(err, &no) {
		t.Errorf("a Recipient: %v", err)
	}
	_, err = f.keys.CreateKey(ctx, &kms.CreateKeyInput{})
	var other smithy.APIError
	if !errors.As(err, &other) || other.ErrorCode() != "UnknownOperationException" {
		t.Errorf("CreateKey: %v", err)
	}
}

// TestPages: the pages of a list are all of it, and markers are for their own list.
func TestPages(t *testing.T) {
	var names, aliases []string
	f := newFixture(t, func(f *fixture) {
		f.settings.Keys = nil
		for i := range 250 {
			k := newKey("k-"+string(rune('a'+i/26))+string(rune('a'+i%26)), "a")
			k.Aliases = []string{"x-" + k.Name, "b-" + k.Name}
			f.settings.Keys = append(f.settings.Keys, k)
			names, aliases = append(names, k.Name), append(aliases, "alias/x-"+k.Name, "alias/b-"+k.Name)
		}
	})
	slices.Sort(aliases)
	for _, limit := range []*int32{nil, aws.Int32(1), aws.Int32(125), aws.Int32(250), aws.Int32(1000)} {
		var got []string
		pages := kms.NewListKeysPaginator(f.keys, &kms.ListKeysInput{Limit: limit})
		for pages.HasMorePages() {
			page, err := pages.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if most := aws.ToInt32(limit); len(page.Keys) > max(int(most), 1) && most != 0 || len(page.Keys) == 0 || page.Truncated != (page.NextMarker != nil) {
				t.Fatalf("limit %d: a page of %d", most, len(page.Keys))
			}
			for _, k := range page.Keys {
				got = append(got, *k.KeyId)
			}
		}
		if !slices.Equal(got, names) {
			t.Errorf("limit %v: %d keys", aws.ToInt32(limit), len(got))
		}
	}
	var got []string
	pages := kms.NewListAliasesPaginator(f.keys, &kms.ListAliasesInput{Limit: aws.Int32(77)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range page.Aliases {
			got = append(got, *a.AliasName)
		}
	}
	if !slices.Equal(got, aliases) {
		t.Errorf("%d aliases", len(got))
	}

	next := f.call("ListKeys", `{"Limit":1}`).text("NextMarker")
	for name, marker := range map[string]string{"another list's": next, "none": "nonsense", "with more": next + "A", "in other letters": strings.ToUpper(next)} {
		operation := "ListKeys"
		if marker == next {
			operation = "ListAliases"
		}
		a := f.call(operation, `{"Marker":"`+marker+`"}`)
		if f.want(a, "InvalidMarkerException", http.StatusBadRequest); t.Failed() {
			t.Fatal(name)
		}
	}
}
