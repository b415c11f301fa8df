package main

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The exit codes (README, "Exit codes").
const (
	exitOK           = 0
	exitFailed       = 1
	exitUsage        = 2 // usage or configuration
	exitDenied       = 3
	exitUnavailable  = 4
	exitVerification = 5
)

// codeError is an error that decides the program's exit code.
type codeError struct {
	code int
	err  error
}

// Error implements error.
func (e *codeError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *codeError) Unwrap() error { return e.err }

// usageError marks err as one of the command line or of what it names.
func usageError(err error) error { return &codeError{exitUsage, err} }

// configError marks err as one of the configuration.
func configError(err error) error { return &codeError{exitUsage, err} }

// deniedError marks err as a want of rights.
func deniedError(err error) error { return &codeError{exitDenied, err} }

// unavailableError marks err as one that may be gone later.
func unavailableError(err error) error { return &codeError{exitUnavailable, err} }

// verificationError marks err as the finding of a verification.
func verificationError(err error) error { return &codeError{exitVerification, err} }

// exitCode is the exit code for err.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	var coded *codeError
	if errors.As(err, &coded) {
		return coded.code
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return exitUnavailable
	}
	if s, ok := status.FromError(err); ok {
		switch s.Code() {
		case codes.PermissionDenied, codes.Unauthenticated:
			return exitDenied
		case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded:
			return exitUnavailable
		case codes.InvalidArgument:
			if reasonOf(err) != "INVALID_ENVELOPE" {
				return exitUsage
			}
		}
	}
	return exitFailed
}

// reasonOf is the reason in a broker's answer, or empty.
func reasonOf(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		return ""
	}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// message is err for people: a broker's answer without gRPC's wrapping, and with
// its reason, by which it can be looked up. What was added around it stays.
func message(err error) string {
	var answer interface {
		error
		GRPCStatus() *status.Status
	}
	if !errors.As(err, &answer) {
		return err.Error()
	}
	words := answer.GRPCStatus().Message()
	if reason := reasonOf(err); reason != "" {
		words += " (" + reason + ")"
	}
	return strings.Replace(err.Error(), answer.Error(), words, 1)
}
