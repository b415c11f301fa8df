package awsapi_test

import (
	"net/http"
	"strings"
	"testing"
)

// TestJSON: what two readers could take in two ways is refused, the rest is read as
// AWS reads it.
func TestJSON(t *testing.T) {
	const fine = ""
	const bad = "SerializationException"
	f := newFixture(t)
	blob := f.generate("tikv")
	spec := `"KeySpec":"AES_256"`
	for _, tc := range []struct{ name, body, code string }{
		{"plain", `{"KeyId":"tikv",` + spec + `}`, fine},
		{"white space", " \t\r\n{ \"KeyId\" : \"tikv\" , " + spec + " }\n", fine},
		{"members it does not have", `{"KeyId":"tikv",` + spec + `,"New":{"a":[1,-0.5e+3,null,true,"x",{}]},"Other":false}`, fine},
		{"escaped name", `{"\u004beyId":"tikv",` + spec + `}`, fine},
		{"escaped value", `{"KeyId":"tik\u0076",` + spec + `}`, fine},
		{"null is not said", `{"KeyId":"tikv",` + spec + `,"NumberOfBytes":null,"EncryptionContext":null,"Recipient":null,"DryRun":null,"GrantTokens":null}`, fine},
		{"surrogate pair", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":{"a":"\ud83d\ude00"}}`, fine},
		{"a noncharacter", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":{"a":"\uffff\u0000"}}`, fine},

		{"nothing", ``, bad},
		{"no object", `[]`, bad},
		{"null", `null`, bad},
		{"cut", `{"KeyId":"tikv",` + spec, bad},
		{"cut in a string", `{"KeyId":"tik`, bad},
		{"cut in an escape", `{"KeyId":"tik\`, bad},
		{"something behind", `{"KeyId":"tikv",` + spec + `}x`, bad},
		{"a second object", `{"KeyId":"tikv",` + spec + `}{}`, bad},
		{"NUL behind", `{"KeyId":"tikv",` + spec + "}\x00", bad},
		{"byte order mark", "\ufeff" + `{"KeyId":"tikv",` + spec + `}`, bad},
		{"comma at the end", `{"KeyId":"tikv",` + spec + `,}`, bad},
		{"no comma", `{"KeyId":"tikv" ` + spec + `}`, bad},
		{"no colon", `{"KeyId" "tikv"}`, bad},
		{"comment", `{"KeyId":"tikv",/**/` + spec + `}`, bad},
		{"single quotes", `{'KeyId':"tikv",` + spec + `}`, bad},
		{"a member twice", `{"KeyId":"tikv","KeyId":"tikv",` + spec + `}`, bad},
		{"a member twice, once null", `{"KeyId":"tikv","KeyId":null,` + spec + `}`, bad},
		{"a member twice, once escaped", `{"KeyId":"tikv","\u004beyId":"other",` + spec + `}`, bad},
		{"an unknown member twice", `{"KeyId":"tikv",` + spec + `,"x":1,"x":2}`, bad},
		{"twice inside an unknown member", `{"KeyId":"tikv",` + spec + `,"x":[{"a":1,"a":1}]}`, bad},
		{"small letters", `{"keyId":"tikv",` + spec + `}`, bad},
		{"both cases", `{"KeyId":"tikv","KEYID":"other",` + spec + `}`, bad},
		{"a Kelvin sign", `{"` + "\u212a" + `eyId":"tikv",` + spec + `}`, bad},
		{"context twice", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":{"a":"b","a":"c"}}`, bad},
		{"null in the context", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":{"a":null}}`, bad},
		{"number in the context", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":{"a":1}}`, bad},
		{"object in the context", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":{"a":{}}}`, bad},
		{"context is an array", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":["a","b"]}`, bad},
		{"not UTF-8", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":{"a":"` + "\xff" + `"}}`, bad},
		{"not UTF-8 in a name", `{"KeyId":"tikv",` + spec + `,"` + "\xc3" + `":1}`, bad},
		{"surrogate in UTF-8", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":{"a":"` + "\xed\xa0\x80" + `"}}`, bad},
		{"too long UTF-8", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":{"a":"` + "\xc0\xaf" + `"}}`, bad},
		{"lone high surrogate", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":{"a":"\ud83d"}}`, bad},
		{"lone low surrogate", `{"KeyId":"tikv",` + spec + `,"EncryptionContext":{"a":"\ude00\ud83d"}}`, bad},
		{"lone surrogate in an unknown member", `{"KeyId":"tikv",` + spec + `,"x":"\ud83dx"}`, bad},
		{"line break in a string", "{\"KeyId\":\"tikv\n\"," + spec + `}`, bad},
		{"no such escape", `{"KeyId":"tikv\x",` + spec + `}`, bad},
		{"bad hex", `{"KeyId":"tikv\u00g0",` + spec + `}`, bad},
		{"KeyId is a number", `{"KeyId":1,` + spec + `}`, bad},
		{"number is a string", `{"KeyId":"tikv","NumberOfBytes":"32"}`, bad},
		{"number with a fraction", `{"KeyId":"tikv","NumberOfBytes":32.0}`, bad},
		{"number with an exponent", `{"KeyId":"tikv","NumberOfBytes":32e0}`, bad},
		{"number beyond 32 bits", `{"KeyId":"tikv","NumberOfBytes":4294967328}`, bad},
		{"number beyond 64 bits", `{"KeyId":"tikv","NumberOfBytes":18446744073709551648}`, bad},
		{"leading zero", `{"KeyId":"tikv","NumberOfBytes":032}`, bad},
		{"plus", `{"KeyId":"tikv","NumberOfBytes":+32}`, bad},
		{"NaN", `{"KeyId":"tikv","NumberOfBytes":NaN}`, bad},
		{"DryRun is a string", `{"KeyId":"tikv",` + spec + `,"DryRun":"true"}`, bad},
		{"DryRun in capitals", `{"KeyId":"tikv",` + spec + `,"DryRun":True}`, bad},
		{"grant tokens with null", `{"KeyId":"tikv",` + spec + `,"GrantTokens":[null]}`, bad},
		{"grant tokens as a string", `{"KeyId":"tikv",` + spec + `,"GrantTokens":"a"}`, bad},
		{"nested too deep", `{"KeyId":"tikv",` + spec + `,"x":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}`, bad},

		{"blob", `{"CiphertextBlob":"` + blob + `"}`, fine},
		{"blob with escapes", `{"CiphertextBlob":"` + strings.ReplaceAll(blob, "/", `\/`) + `"}`, fine},
		{"blob without padding", `{"CiphertextBlob":"QUI"}`, bad},
		{"blob with bits behind", `{"CiphertextBlob":"QUJ="}`, bad},
		{"blob in the URL alphabet", `{"CiphertextBlob":"_-8="}`, bad},
		{"blob with a line break", `{"CiphertextBlob":"QU\nI="}`, bad},
		{"blob with a space", `{"CiphertextBlob":"QU I="}`, bad},
		{"blob is an array", `{"CiphertextBlob":[1,2]}`, bad},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f.t = t
			operation := "GenerateDataKey"
			if strings.Contains(tc.body, "CiphertextBlob") {
				operation = "Decrypt"
			}
			a := f.call(operation, tc.body)
			if tc.code == fine {
				f.want(a, "", http.StatusOK)
				return
			}
			f.want(a, tc.code, http.StatusBadRequest)
			if r := f.last(); r.Reason != "INVALID_ARGUMENT" || r.Client.Name != "me" || r.Client.Method != operation {
				t.Errorf("recorded %+v", r)
			}
		})
	}
}

// TestNothingOfABadBodyIsTold: it may be a plaintext.
func TestNothingOfABadBodyIsTold(t *testing.T) {
	f := newFixture(t)
	for _, body := range []string{`{"KeyId":"tikv","Plaintext":"c2VjcmV0!"}`, `{"KeyId":"tikv","Plaintext":"c2VjcmV0` + "\xff" + `"}`, `{"c2VjcmV0":1,"c2VjcmV0":1}`} {
		a := f.call("Encrypt", body)
		f.want(a, "SerializationException", http.StatusBadRequest)
		if strings.Contains(a.message()+f.log.String()+f.last().Detail, "c2VjcmV0") {
			t.Errorf("%s is told", body)
		}
	}
}
