package awskms_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// fakeSTS gives credentials that a fakeKMS then accepts.
type fakeSTS struct {
	kms *fakeKMS

	mu sync.Mutex
	// externalID is what the trust policy of every role asks for.
	externalID string
	// token is the one web identity token that is good.
	token string
	// lifetime is how long credentials last.
	lifetime time.Duration
	seen     []url.Values
	instead  http.HandlerFunc
}

func newFakeSTS(kms *fakeKMS) *fakeSTS { return &fakeSTS{kms: kms, lifetime: time.Hour} }

func (f *fakeSTS) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// calls are those that came.
func (f *fakeSTS) calls() []url.Values {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.seen
}

// ServeHTTP implements http.Handler.
func (f *fakeSTS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	_ = r.ParseForm()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen = append(f.seen, r.PostForm)
	if f.instead != nil {
		f.instead(w, r)
		return
	}
	action := r.PostForm.Get("Action")
	switch {
	case action == "AssumeRole" && !f.signed(r):
		stsError(w, 403, "InvalidClientTokenId", "The security token included in the request is invalid.")
	case action == "AssumeRole" && r.PostForm.Get("ExternalId") != f.externalID:
		stsError(w, 403, "AccessDenied", "User: arn:aws:iam::111122223333:user/broker is not authorized to perform: sts:AssumeRole on resource: "+r.PostForm.Get("RoleArn"))
	case action == "AssumeRoleWithWebIdentity" && r.PostForm.Get("WebIdentityToken") != f.token:
		stsError(w, 400, "ExpiredTokenException", "Token expired: current date/time must be before the expiration date/time")
	case action == "AssumeRole", action == "AssumeRoleWithWebIdentity":
		access := fmt.Sprintf("ASIA%016d", len(f.seen))
		secrets := [2]string{"secret-of-" + access, "session-token-of-" + access}
		f.kms.set(func() { f.kms.accepted[access] = secrets })
		w.Header().Set("Content-Type", "text/xml")
		fmt.Fprintf(w, `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration></Credentials></%[1]sResult></%[1]sResponse>`,
			action, access, secrets[0], secrets[1], time.Now().Add(f.lifetime).UTC().Format(time.RFC3339))
	default:
		stsError(w, 400, "InvalidAction", action)
	}
}

// signed tells whether a known credential asks.
func (f *fakeSTS) signed(r *http.Request) bool {
	f.kms.mu.Lock()
	defer f.kms.mu.Unlock()
	secrets, ok := f.kms.accepted[accessKeyOf(r)]
	return ok && r.Header.Get("X-Amz-Security-Token") == secrets[1]
}

func stsError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "text/xml")
	w.Header().Set("X-Amzn-Requestid", "22222222-3333-4444-5555-666666666666")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>22222222-3333-4444-5555-666666666666</RequestId></ErrorResponse>`, code, message)
}
