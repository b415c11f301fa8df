package gcpkms

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// maxShown bounds a text of somebody else's in a message, in bytes. A permission
// that is missing is named with the resource in under half of it.
const maxShown = 600

// shown is text on one line and cut.
func shown(text string) string {
	var b strings.Builder
	for _, r := range strings.Join(strings.Fields(text), " ") {
		if b.Len() > maxShown {
			return b.String() + "..."
		}
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// codeName is a code as Google writes it.
func codeName(c codes.Code) string {
	switch c {
	case codes.Canceled:
		return "CANCELLED"
	case codes.InvalidArgument:
		return "INVALID_ARGUMENT"
	case codes.DeadlineExceeded:
		return "DEADLINE_EXCEEDED"
	case codes.NotFound:
		return "NOT_FOUND"
	case codes.PermissionDenied:
		return "PERMISSION_DENIED"
	case codes.ResourceExhausted:
		return "RESOURCE_EXHAUSTED"
	case codes.FailedPrecondition:
		return "FAILED_PRECONDITION"
	case codes.OutOfRange:
		return "OUT_OF_RANGE"
	case codes.DataLoss:
		return "DATA_LOSS"
	default:
		return strings.ToUpper(c.String())
	}
}

// advise says what to do next, or nothing. The reasons are those of
// google/api/error_reason.proto and of Cloud KMS.
func advise(st *status.Status, reason, key string) string {
	project := strings.Split(key, "/")[1]
	switch reason {
	case "SERVICE_DISABLED":
		return "the Cloud KMS API is off in a project: gcloud services enable cloudkms.googleapis.com --project " + consumer(st, project)
	case "BILLING_DISABLED":
		return "turn billing on for project " + consumer(st, project)
	case "USER_PROJECT_DENIED":
		return "grant roles/serviceusage.serviceUsageConsumer on " + consumer(st, "the quota project") + ", or take quota_project out"
	case "CONSUMER_INVALID", "CONSUMER_SUSPENDED":
		return "project " + consumer(st, project) + " is gone or suspended: check quota_project and the project of the key"
	case "SECURITY_POLICY_VIOLATED":
		return "a VPC Service Controls perimeter refuses it: let the broker's identity or network in by an ingress rule for cloudkms.googleapis.com"
	case "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
		return "the VM's access scopes leave Cloud KMS out: set the scope cloud-platform on it"
	}
	switch st.Code() {
	case codes.PermissionDenied:
		return fmt.Sprintf("grant the broker's identity roles/cloudkms.cryptoKeyEncrypterDecrypter on %s, if that is there", key)
	case codes.NotFound:
		return "check the key's name and location, and what project it is in"
	case codes.FailedPrecondition:
		if strings.Contains(st.Message(), "current state is") {
			return "enable or restore that version, or make another one primary for new wraps"
		}
	case codes.Unauthenticated:
		return "Google does not accept the broker's credential: is it disabled or deleted, and is the clock right?"
	case codes.ResourceExhausted:
		return "raise the cryptographic requests quota of Cloud KMS in the project that is charged"
	case codes.Unavailable:
		if strings.Contains(st.Message(), "x509:") {
			return "ca_file must hold the roots of whom endpoint names"
		}
	}
	return ""
}

// consumer is the project that ErrorInfo is about, or fallback.
func consumer(st *status.Status, fallback string) string {
	if name := detail[*errdetails.ErrorInfo](st).GetMetadata()["consumer"]; name != "" {
		return shown(strings.TrimPrefix(name, "projects/"))
	}
	return fallback
}
