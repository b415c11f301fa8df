package awskms

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/keybroker/keybroker/backends"
)

// answer is what a service of AWS, or somebody in its place, said instead of a
// success.
type answer struct {
	// code and message are AWS's; code is empty if the answer is not AWS's.
	code, message string
	status        int    // of HTTP; 0 if unknown
	request       string // AWS's id of it; may be empty
	after         time.Duration
}

// unknownCode is what the SDK calls an answer that names no code.
const unknownCode = "UnknownError"

// maxRetryAfter bounds what is believed of a Retry-After.
const maxRetryAfter = time.Hour

// answerOf finds the answer in an error of the SDK's.
func answerOf(err error) (answer, bool) {
	var a answer
	var response *awshttp.ResponseError
	if errors.As(err, &response) && response.Response != nil && response.HTTPStatusCode() != 0 {
		a.status, a.request = response.HTTPStatusCode(), response.ServiceRequestID()
		seconds, err := strconv.Atoi(response.Response.Header.Get("Retry-After"))
		if err == nil && seconds > 0 {
			a.after = min(time.Duration(min(seconds, 1<<20))*time.Second, maxRetryAfter)
		}
	}
	var api smithy.APIError
	if errors.As(err, &api) && api.ErrorCode() != unknownCode {
		a.code, a.message = api.ErrorCode(), api.ErrorMessage()
		return a, true
	}
	return a, a.status != 0
}

// says is the answer as errors show it. What is not AWS's is not repeated: who
// knows what is in it.
func (a answer) says(secrets ...[]byte) string {
	if a.code == "" {
		return strconv.Itoa(a.status) + ", and not by AWS, but by what stands before it"
	}
	s := shown(a.code)
	if a.request != "" {
		s += " (request " + shown(a.request) + ")"
	}
	// What follows in complaints about a signature are the signed headers, and
	// among them is the session token.
	message, _, _ := strings.Cut(a.message, "The Canonical String")
	if strings.HasPrefix(a.code, "IncompleteSignature") {
		message = ""
	}
	if message = shown(message, secrets...); message != "" {
		s += ": " + message
	}
	return s
}

// class sorts an answer of KMS. Codes tell; most come with status 400.
func (a answer) class() backends.Class {
	switch a.code {
	case "":
		switch {
		case a.status >= 200 && a.status < 300:
			return backends.Internal
		case a.status == http.StatusTooManyRequests:
			return backends.Throttled
		default:
			// What is not AWS's is never a definite answer about a key.
			return backends.Unavailable
		}
	case "NotFoundException":
		return backends.NotFound
	case "AccessDeniedException", "AccessDenied", "InvalidGrantTokenException":
		return backends.Denied
	case "DisabledException", invalidState:
		return backends.Disabled
	case "InvalidCiphertextException":
		return backends.InvalidCiphertext
	case "IncorrectKeyException":
		return backends.WrongKey
	case "InvalidArnException", "InvalidKeyUsageException", "ValidationException", "ValidationError",
		"SerializationException", "UnsupportedOperationException", "UnknownOperationException", "InvalidParameterValue":
		return backends.InvalidArgument
	}
	switch {
	case a.throttled():
		return backends.Throttled
	case a.unauthenticated():
		return backends.Unauthenticated
	case a.status >= 500:
		return backends.Unavailable
	}
	switch a.code {
	case "DependencyTimeoutException", "KeyUnavailableException", "KMSInternalException",
		"ServiceUnavailable", "ServiceUnavailableException", "InternalFailure", "InternalServerError", "InternalError", "RequestTimeout":
		return backends.Unavailable
	}
	return backends.Internal
}

// invalidState is KMS's code for a key whose state does not allow a call, and for
// any failure of a custom key store.
const invalidState = "KMSInvalidStateException"

func (a answer) throttled() bool {
	switch a.code {
	case "Throttling", "ThrottlingException", "ThrottledException", "LimitExceededException", "RequestLimitExceeded",
		"RequestThrottled", "RequestThrottledException", "TooManyRequestsException", "SlowDown":
		return true
	}
	return false
}

// unauthenticated tells that AWS does not accept the credential, or that the
// clocks disagree.
func (a answer) unauthenticated() bool {
	switch a.code {
	case "UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId",
		"InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature", "IncompleteSignatureException",
		"ExpiredToken", "ExpiredTokenException", "RequestExpired", "RequestTimeTooSkewed",
		"MissingAuthenticationToken", "MissingAuthenticationTokenException", "AuthFailure", "NotAuthorized":
		return true
	}
	return false
}

// skewed tells that the SDK has measured, by the answer to a call, that this
// machine's clock is wrong. It signs the next call by AWS's.
func skewed(err error) bool {
	var measured interface{ RetryableError() bool }
	a, _ := answerOf(err)
	return (a.unauthenticated() || a.class() == backends.Denied) && errors.As(err, &measured) && measured.RetryableError()
}
