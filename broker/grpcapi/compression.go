package grpcapi

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
)

// encodingOf is how the messages of a call are compressed; empty if they are not.
//
// Nothing of the API is worth compressing, so nothing compressed is taken: a
// small message could else become a large one, and gRPC would compress the
// answer as well, with a data key in the compressor's window.
func encodingOf(ctx context.Context) string {
	s, _ := grpc.ServerTransportStreamFromContext(ctx).(interface{ RecvCompress() string })
	if s == nil || s.RecvCompress() == encoding.Identity {
		return ""
	}
	return s.RecvCompress()
}

// refuseGzip is a decompressor that decompresses nothing, whatever another
// package of the program may have registered for gzip. With it gRPC passes
// compressed calls on, to be refused on the record, instead of answering them
// itself.
type refuseGzip struct{}

// Do implements grpc.Decompressor.
func (refuseGzip) Do(io.Reader) ([]byte, error) {
	return nil, errors.New("compressed messages are not accepted")
}

// Type implements grpc.Decompressor.
func (refuseGzip) Type() string { return "gzip" }
