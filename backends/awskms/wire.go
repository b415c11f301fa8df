package awskms

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"sync"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/keybroker/keybroker/backends"
)

// wire is the SDK's protocol for one call, except that what holds key bytes is
// written and read here, in buffers that are wiped: the body of an Encrypt, and
// the answer to a Decrypt. The SDK's own are left to the garbage collector, and
// those of answers are used again without being wiped.
type wire struct {
	smithyhttp.ClientProtocol // the SDK's
	body                      *secretBody
}

// SerializeRequest implements smithyhttp.ClientProtocol.
func (w *wire) SerializeRequest(ctx context.Context, schema *smithy.OperationSchema, in smithy.Serializable, req *smithyhttp.Request) error {
	e, ok := in.(*kms.EncryptInput)
	if !ok {
		return w.ClientProtocol.SerializeRequest(ctx, schema, in, req)
	}
	// The SDK sets the headers, by writing a request without the plaintext.
	bare := *e
	bare.Plaintext = nil
	if err := w.ClientProtocol.SerializeRequest(ctx, schema, &bare, req); err != nil {
		return err
	}
	body, err := encryptBody(e)
	if err != nil {
		return err
	}
	w.body = &secretBody{bytes: body}
	whole, err := req.SetStream(w.body)
	if err != nil {
		return err
	}
	*req = *whole
	return nil
}

// encryptBody returns the JSON of an Encrypt. The caller wipes it.
func encryptBody(in *kms.EncryptInput) ([]byte, error) {
	bare, err := json.Marshal(struct {
		KeyID             *string           `json:"KeyId"`
		EncryptionContext map[string]string `json:",omitempty"`
	}{in.KeyId, in.EncryptionContext})
	if err != nil {
		return nil, err
	}
	const head = `{"Plaintext":"`
	size := len(head) + base64.StdEncoding.EncodedLen(len(in.Plaintext)) + len(`",`) + len(bare)
	// Large enough not to grow, which would leave a copy behind.
	body := append(make([]byte, 0, size), head...)
	body = base64.StdEncoding.AppendEncode(body, in.Plaintext)
	body = append(body, `",`...)
	return append(body, bare[1:]...), nil
}

// DeserializeResponse implements smithyhttp.ClientProtocol.
func (w *wire) DeserializeResponse(ctx context.Context, schema *smithy.OperationSchema, types *smithy.TypeRegistry, resp *smithyhttp.Response, out smithy.Deserializable) error {
	d, ok := out.(*kms.DecryptOutput)
	if !ok || resp.StatusCode < 200 || resp.StatusCode > 299 {
		return w.ClientProtocol.DeserializeResponse(ctx, schema, types, resp, out)
	}
	body, err := backends.ReadAll(resp.Body)
	if err != nil {
		return &smithy.DeserializationError{Err: err}
	}
	defer clear(body)
	var got struct {
		KeyID         *string `json:"KeyId"`
		KeyMaterialID *string `json:"KeyMaterialId"`
		// Plaintext is decoded from base64 into bytes of its own. No string of it
		// comes into being.
		Plaintext []byte
	}
	if err := json.Unmarshal(body, &got); err != nil {
		clear(got.Plaintext)
		// What the decoder says could quote the plaintext.
		return &smithy.DeserializationError{Err: errors.New("the answer is not JSON as KMS writes it")}
	}
	d.KeyId, d.KeyMaterialId, d.Plaintext = got.KeyID, got.KeyMaterialID, got.Plaintext
	return nil
}

// wipe ends the call: what it has sent is overwritten.
func (w *wire) wipe() {
	if w.body != nil {
		w.body.wipe()
	}
}

// secretBody is a request's body. A transport may go on reading it after the call
// has ended, and then finds nothing.
type secretBody struct {
	mu    sync.Mutex
	bytes []byte // nil when wiped
	at    int
	ended bool
}

var errEnded = errors.New("the call has ended")

// Read implements io.Reader.
func (b *secretBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.ended:
		return 0, errEnded
	case b.at == len(b.bytes):
		return 0, io.EOF
	}
	n := copy(p, b.bytes[b.at:])
	b.at += n
	return n, nil
}

// WriteTo implements io.WriterTo. What hashes the body to sign it would else copy
// it through a buffer that nobody wipes.
func (b *secretBody) WriteTo(w io.Writer) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0, errEnded
	}
	n, err := w.Write(b.bytes[b.at:])
	b.at += n
	return int64(n), err
}

// Seek implements io.Seeker.
func (b *secretBody) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += int64(b.at)
	case io.SeekEnd:
		offset += int64(len(b.bytes))
	}
	if offset < 0 || offset > int64(len(b.bytes)) {
		return 0, errors.New("no such place in the body")
	}
	b.at = int(offset)
	return offset, nil
}

func (b *secretBody) wipe() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.bytes)
	b.bytes, b.at, b.ended = nil, 0, true
}
