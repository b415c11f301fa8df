package grpcapi

import (
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keybroker/keybroker/broker"
)

// errorDomain is the domain of every ErrorInfo.
const errorDomain = "keybroker"

// maxText bounds a message, in bytes. A status travels in headers, twice, and
// many clients take no more than 8 KiB of them; they would see a broken
// connection instead of the reason.
const maxText = 2 << 10

// statusOf words a broker's error for gRPC: its code and message, an ErrorInfo
// with its reason, and a RetryInfo if trying again makes sense. It is nil for
// nil.
func statusOf(err error) *status.Status {
	if err == nil {
		return nil
	}
	told := broker.AsError(err)
	s := status.New(codes.Code(told.Reason.Code()), text(told.Message))
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(told.Reason), Domain: errorDomain}}
	if told.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(told.RetryAfter)})
	}
	with, err := s.WithDetails(details...)
	if err != nil {
		return s // unreachable: these details always marshal
	}
	return with
}

// answer returns what a handler returns: either the message or the error.
func answer[T any](message *T, err error) (*T, error) {
	if err != nil {
		return nil, statusOf(err).Err()
	}
	return message, nil
}

// text returns s as a field can hold it: protobuf refuses to marshal what is not
// UTF-8, and so would lose the whole answer.
func text(s string) string {
	const cut = " [cut]"
	s = strings.ToValidUTF8(s, "\ufffd")
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText-len(cut)], "") + cut
}
