package broker

import "time"

// Outcome is how one Reason is told to callers, at each front door.
type Outcome struct {
	Reason Reason
	// Code is gRPC's.
	Code Code
	// RetryAfter is how long a caller should wait before it tries again, or 0 if
	// trying again is no use. The waits are short because the answer is cheap: a
	// caller in an outage is meant to be served within a second of its end.
	RetryAfter time.Duration
	// AWSCode and AWSStatus are the answer of the AWS-KMS-compatible endpoint.
	// They are chosen by what TiKV makes of them: KMSInternalException and
	// DependencyTimeoutException it tries again for minutes; anything else ends
	// its start at once, or has it try the previous master key. So an outage must
	// be one of these two, and a definite answer none of them. Throttling codes
	// are never sent: TiKV gives up on them within seconds.
	AWSCode   string
	AWSStatus int
}

// Outcomes returns every Outcome, one for each Reason, in the order of
// docs/errors.md.
func Outcomes() []Outcome {
	const soon, later = 500 * time.Millisecond, time.Second
	return []Outcome{
		{KeyNotFound, CodeNotFound, 0, "NotFoundException", 400},
		{AccessDenied, CodePermissionDenied, 0, "AccessDeniedException", 400},
		{InvalidEnvelope, CodeInvalidArgument, 0, "InvalidCiphertextException", 400},
		{WrongKey, CodeInvalidArgument, 0, "IncorrectKeyException", 400},
		{InvalidArgument, CodeInvalidArgument, 0, "ValidationException", 400},
		{KEKDisabled, CodeFailedPrecondition, 0, "DisabledException", 400},
		{KEKDenied, CodeFailedPrecondition, 0, "AccessDeniedException", 400},
		{NoBackend, CodeFailedPrecondition, 0, "KMSInvalidStateException", 400},
		{BackendUnavailable, CodeUnavailable, soon, "KMSInternalException", 500},
		{AuditUnavailable, CodeUnavailable, soon, "KMSInternalException", 500},
		{BackendThrottled, CodeResourceExhausted, later, "KMSInternalException", 500},
		{RateLimited, CodeResourceExhausted, later, "KMSInternalException", 500},
		{Deadline, CodeDeadlineExceeded, 0, "DependencyTimeoutException", 503},
		{Internal, CodeInternal, 0, "KMSInternalException", 500},
	}
}

// Outcome returns how r is told. A Reason that is not one of the constants is told
// as Internal.
func (r Reason) Outcome() Outcome {
	outcomes := Outcomes()
	for _, o := range outcomes {
		if o.Reason == r {
			return o
		}
	}
	return outcomes[len(outcomes)-1]
}

// Code returns the gRPC code that goes with r.
func (r Reason) Code() Code { return r.Outcome().Code }

func (r Reason) retryAfter() time.Duration { return r.Outcome().RetryAfter }
