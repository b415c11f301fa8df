//go:build !linux

package grpcapi_test

func actAsCaller() bool { return false }
