package awskms_test

import (
	"strings"
	"testing"

	"github.com/keybroker/keybroker/backends"
	"github.com/keybroker/keybroker/backends/awskms"
)

func TestValidKey(t *testing.T) {
	for _, key := range []string{
		tikv, multi,
		"arn:aws-cn:kms:cn-north-1:111122223333:key/" + tikvID,
		"arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/" + tikvID,
	} {
		if err := awskms.ValidKey(key); err != nil {
			t.Errorf("%q: %v", key, err)
		}
	}
	const arn = "arn:aws:kms:REGION:ACCOUNT:key/ID"
	for name, test := range map[string]struct{ key, want string }{
		"empty":               {"", "no ARN"},
		"an alias":            {"alias/tikv", "alias"},
		"an alias's ARN":      {"arn:aws:kms:eu-central-1:111122223333:alias/tikv", "alias"},
		"an id":               {tikvID, "region and account"},
		"a multi-region id":   {multiID, "region and account"},
		"another service":     {strings.Replace(tikv, ":kms:", ":iam:", 1), "no ARN"},
		"no region":           {"arn:aws:kms::111122223333:key/" + tikvID, "no ARN"},
		"no account":          {"arn:aws:kms:eu-central-1::key/" + tikvID, "no ARN"},
		"a short account":     {"arn:aws:kms:eu-central-1:11112222333:key/" + tikvID, "no ARN"},
		"no id":               {"arn:aws:kms:eu-central-1:111122223333:key/", "no ARN"},
		"a path":              {tikv + "/x", "no ARN"},
		"one part more":       {tikv + ":x", "no ARN"},
		"a space behind":      {tikv + " ", "no ARN"},
		"another partition":   {strings.Replace(tikv, "arn:aws:", "arn:azure:", 1), "no ARN"},
		"an id that is long":  {tikv + strings.Repeat("0", 128), "no ARN"},
		"a key's tag in caps": {strings.Replace(tikv, "arn:", "ARN:", 1), "no ARN"},
	} {
		err := awskms.ValidKey(test.key)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), arn) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && len(err.Error()) > 600 {
			t.Errorf("%s: an error of %d bytes", name, len(err.Error()))
		}
	}
}

func TestMatch(t *testing.T) {
	b := newBench(t, nil)
	for name, test := range map[string]struct {
		key, reference string
		want           bool
	}{
		"the key":                           {tikv, tikv, true},
		"another id":                        {tikv, other, false},
		"another region":                    {tikv, keyIn("us-east-1", tikvID), false},
		"another account":                   {tikv, strings.Replace(tikv, account, "999922223333", 1), false},
		"another partition":                 {tikv, strings.Replace(tikv, "arn:aws:", "arn:aws-cn:", 1), false},
		"a replica":                         {multi, keyIn("us-east-1", multiID), true},
		"a replica's account is another":    {multi, strings.Replace(multi, account, "999922223333", 1), false},
		"a replica's partition is another":  {multi, strings.Replace(keyIn("us-east-1", multiID), "arn:aws:", "arn:aws-cn:", 1), false},
		"another multi-region key":          {multi, keyIn("us-east-1", "mrk-0"), false},
		"an id alone":                       {tikv, tikvID, false},
		"an alias":                          {tikv, "arn:aws:kms:eu-central-1:111122223333:alias/tikv", false},
		"nothing":                           {tikv, "", false},
		"a line behind":                     {tikv, tikv + "\n", false},
		"the multi-region id without mrk":   {multi, strings.Replace(multi, "mrk-", "", 1), false},
		"a key whose id only looks like it": {keyIn(region, "xmrk-1"), keyIn("us-east-1", "xmrk-1"), false},
	} {
		if got, err := b.kms.Match(t.Context(), test.key, test.reference); got != test.want || err != nil {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
	if n := len(b.fake.requests("")); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
	_, err := b.kms.Match(t.Context(), "alias/tikv", tikv)
	b.fails("an alias as key", err, backends.InvalidArgument, "alias")
}

// What can be a key has one form only, and is found again by it.
func FuzzARN(f *testing.F) {
	for _, seed := range []string{tikv, multi, other, "alias/x", "arn:aws:kms:::key/", "", tikv + ":", "arn:aws:kms:a:111122223333:key/-"} {
		f.Add(seed)
	}
	k, err := awskms.New(awskms.Config{Region: region})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = k.Close() })
	f.Fuzz(func(t *testing.T, s string) {
		valid := awskms.ValidKey(s) == nil
		if valid && (len(s) > 512 || strings.Count(s, ":") != 5 || !strings.HasPrefix(s, "arn:aws") || strings.ContainsAny(s, " \n\x00%*?")) {
			t.Errorf("%q is taken for a key", s)
		}
		if !valid {
			if _, err := k.Match(t.Context(), s, tikv); backends.ClassOf(err) != backends.InvalidArgument {
				t.Errorf("%q: %v", s, err)
			}
		}
		// As a reference it is the key, if it is that text, or a replica of it.
		for _, key := range []string{tikv, multi} {
			got, err := k.Match(t.Context(), key, s)
			want := s == key || key == multi && valid && strings.HasPrefix(s, "arn:aws:kms:") && strings.HasSuffix(s, ":"+account+":key/"+multiID)
			if got != want || err != nil {
				t.Errorf("Match(%q, %q) = %t, %v", key, s, got, err)
			}
		}
	})
}
