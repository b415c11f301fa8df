package broker_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keybroker/keybroker/broker"
)

// outcomes say what each reason is at each front door: for the gRPC API by
// docs/errors.md, for the AWS-KMS-compatible endpoint by what TiKV makes of each
// code. A change here changes what clients do.
const outcomes = `
KEY_NOT_FOUND NOT_FOUND 5 none NotFoundException 400
ACCESS_DENIED PERMISSION_DENIED 7 none AccessDeniedException 400
INVALID_ENVELOPE INVALID_ARGUMENT 3 none InvalidCiphertextException 400
WRONG_KEY INVALID_ARGUMENT 3 none IncorrectKeyException 400
INVALID_ARGUMENT INVALID_ARGUMENT 3 none ValidationException 400
KEK_DISABLED FAILED_PRECONDITION 9 none DisabledException 400
KEK_DENIED FAILED_PRECONDITION 9 none AccessDeniedException 400
NO_BACKEND FAILED_PRECONDITION 9 none KMSInvalidStateException 400
BACKEND_UNAVAILABLE UNAVAILABLE 14 500ms KMSInternalException 500
AUDIT_UNAVAILABLE UNAVAILABLE 14 500ms KMSInternalException 500
BACKEND_THROTTLED RESOURCE_EXHAUSTED 8 1s KMSInternalException 500
RATE_LIMITED RESOURCE_EXHAUSTED 8 1s KMSInternalException 500
DEADLINE DEADLINE_EXCEEDED 4 none DependencyTimeoutException 503
INTERNAL INTERNAL 13 none KMSInternalException 500
`

func TestOutcomes(t *testing.T) {
	var got strings.Builder
	for _, o := range broker.Outcomes() {
		fmt.Fprintf(&got, "%s %s %d %s %s %d\n", o.Reason, o.Code, o.Code, retryText(o.RetryAfter), o.AWSCode, o.AWSStatus)
	}
	if want := strings.TrimPrefix(outcomes, "\n"); got.String() != want {
		t.Errorf("the outcomes are\n%s\nwant\n%s", got.String(), want)
	}
	if o := broker.Reason("no such").Outcome(); o.Reason != broker.Internal {
		t.Errorf("an unknown reason is told as %s", o.Reason)
	}
}

func retryText(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return d.String()
}

// TestErrorsDocument: docs/errors.md shows the table, and has a section on each
// reason.
func TestErrorsDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- answers: held by a test -->\n", "<!-- /answers -->\n"
	_, rest, ok1 := strings.Cut(string(text), begin)
	got, _, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatalf("docs/errors.md has no block between %q and %q", begin, end)
	}
	var want strings.Builder
	want.WriteString("| reason | gRPC code | RetryInfo | AWS code | status |\n|---|---|---|---|---|\n")
	for _, o := range broker.Outcomes() {
		fmt.Fprintf(&want, "| [`%s`](#%s) | %s (%d) | %s | %s | %d |\n",
			o.Reason, strings.ToLower(string(o.Reason)), o.Code, o.Code, retryText(o.RetryAfter), o.AWSCode, o.AWSStatus)
	}
	if got != want.String() {
		t.Errorf("the block in docs/errors.md is\n%s\nwant\n%s", got, want.String())
	}
	headings := regexp.MustCompile(`(?m)^### ([A-Z_]+)$`).FindAllStringSubmatch(string(text), -1)
	if len(headings) != len(broker.Outcomes()) {
		t.Fatalf("docs/errors.md has %d sections on reasons, want %d", len(headings), len(broker.Outcomes()))
	}
	for i, o := range broker.Outcomes() {
		if headings[i][1] != string(o.Reason) {
			t.Errorf("section %d is on %s, want %s", i, headings[i][1], o.Reason)
		}
	}
}
