package awskms

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/keybroker/keybroker/backends"
)

// The operations of KMS, as errors and policies name them.
const (
	opEncrypt     = "kms:Encrypt"
	opDecrypt     = "kms:Decrypt"
	opDescribeKey = "kms:DescribeKey"
)

// call makes one request to KMS about a key. It is made once more if the clock of
// this machine was wrong, since the SDK then knows by how much, and if KMS does
// not accept the credential and the configuration now gives another one.
//
// secret is what the request has of a plaintext.
func (k *KMS) call(ctx context.Context, op string, key keyARN, secret []byte, request func(*kms.Client) error) error {
	c, err := k.clients.get(ctx)
	if err != nil {
		return err
	}
	if err = request(c.kms); skewed(err) && backends.Ended(ctx) == nil {
		err = request(c.kms)
	}
	if err == nil {
		return nil
	}
	failed := k.failed(ctx, c, op, key, secret, err)
	if backends.ClassOf(failed) != backends.Unauthenticated || backends.Ended(ctx) != nil {
		return failed
	}
	k.clients.drop(c)
	var before *credentialError
	if errors.As(err, &before) {
		return failed
	}
	next, err := k.clients.get(ctx)
	if err != nil || !next.differs(ctx, c) {
		return failed
	}
	if err = request(next.kms); err == nil {
		return nil
	}
	return k.failed(ctx, next, op, key, secret, err)
}

// differs tells whether c has other credentials than the one before.
func (c *client) differs(ctx context.Context, before *client) bool {
	was, wasErr := before.credentials.Retrieve(ctx)
	is, isErr := c.credentials.Retrieve(ctx)
	return wasErr == nil && isErr == nil && (was.AccessKeyID != is.AccessKeyID || was.SecretAccessKey != is.SecretAccessKey || was.SessionToken != is.SessionToken)
}

// failed sorts what a request has failed of.
func (k *KMS) failed(ctx context.Context, c *client, op string, key keyARN, secret []byte, err error) error {
	var credential *credentialError
	var lost *smithyhttp.RequestSendError
	a, answered := answerOf(err)
	switch {
	case backends.Ended(ctx) != nil:
		return gaveUp(ctx)
	case errors.As(err, &credential):
		return credentialFailed(credential.err)
	case errors.Is(err, errTooLarge) && a.status < 300:
		return backends.Fail(backends.Internal, "%s was answered with more than %d bytes", op, maxAnswer)
	case answered:
		return k.refused(c, op, key, secret, a)
	case errors.Is(err, errInTheClear):
		return backends.Fail(backends.InvalidArgument, "the endpoint of the environment or the profile: %w", errInTheClear)
	case errors.As(err, &lost):
		if distrusted(err) {
			k.clients.distrust()
			return backends.Fail(backends.Unavailable, "KMS in %s is not trusted: %s; does ca_file have the CA of the endpoint?", key.region, shown(lost.Err.Error()))
		}
		return backends.Fail(backends.Unavailable, "no answer from KMS in %s: %s", key.region, shown(lost.Err.Error()))
	case strings.Contains(err.Error(), "failed to resolve service endpoint"):
		// The SDK has no type for it.
		return backends.Fail(backends.InvalidArgument, "KMS has no endpoint for region %s: %s", key.region, shown(err.Error()))
	}
	return backends.Fail(backends.Internal, "%s: %s", op, shown(err.Error()))
}

// refused is the failure of a request that was answered.
func (k *KMS) refused(c *client, op string, key keyARN, secret []byte, a answer) error {
	class := a.class()
	if a.code == "" && class == backends.Internal {
		return backends.Fail(class, "%s was answered %d, but not as KMS does; does a proxy change its answers?", op, a.status)
	}
	encoded := base64.StdEncoding.AppendEncode(nil, secret)
	defer clear(encoded)
	text := op + " was answered " + a.says(append(c.credentials.secrets(), encoded, secret)...)
	switch class {
	case backends.Denied:
		text += fmt.Sprintf("; allow the broker's role %s on %s, in the key's policy or, if that leaves it to IAM, in the role's; across accounts in both", op, key)
	case backends.NotFound:
		text += "; is " + key.String() + " the key's ARN, and has the key been deleted?"
	case backends.Disabled:
		text += "; see what has become of it: aws kms describe-key --key-id " + key.String()
	case backends.InvalidArgument:
		text += "; is " + key.String() + " a symmetric key for ENCRYPT_DECRYPT?"
	case backends.Unauthenticated:
		text += "; are the broker's credentials valid, and the clock of this machine right?"
	}
	return &backends.Failure{Class: class, RetryAfter: a.after, Err: &refusal{a.code, text}}
}

// refusal is an answer of KMS that is no success.
type refusal struct{ code, text string }

func (r *refusal) Error() string { return r.text }

// says tells whether err is an answer with the code.
func says(err error, code string) bool {
	var r *refusal
	return errors.As(err, &r) && r.code == code
}

// encrypt returns the ciphertext of plaintext and the key that KMS says has made
// it.
func (k *KMS) encrypt(ctx context.Context, key keyARN, plaintext []byte, pairs map[string]string) ([]byte, keyARN, error) {
	var out *kms.EncryptOutput
	in := &kms.EncryptInput{KeyId: aws.String(key.String()), Plaintext: plaintext, EncryptionContext: pairs}
	err := k.call(ctx, opEncrypt, key, plaintext, func(c *kms.Client) (err error) {
		w := &wire{}
		defer w.wipe()
		out, err = c.Encrypt(ctx, in, w.use)
		return err
	})
	if err != nil {
		return nil, keyARN{}, k.stateOf(ctx, key, err)
	}
	by, err := answering(opEncrypt, key, out.KeyId)
	if err != nil {
		return nil, keyARN{}, err
	}
	if n := len(out.CiphertextBlob); n < 1 || n > maxCiphertext {
		return nil, keyARN{}, backends.Fail(backends.Internal, "%s was answered with a ciphertext of %d bytes, not 1 to %d", opEncrypt, n, maxCiphertext)
	}
	return out.CiphertextBlob, by, nil
}

// decrypt returns the plaintext of a ciphertext, which the caller wipes. version
// is the key material that is said to have made it; empty if nothing is said.
func (k *KMS) decrypt(ctx context.Context, key keyARN, version string, ciphertext []byte, pairs map[string]string) ([]byte, error) {
	var out *kms.DecryptOutput
	in := &kms.DecryptInput{KeyId: aws.String(key.String()), CiphertextBlob: ciphertext, EncryptionContext: pairs}
	err := k.call(ctx, opDecrypt, key, nil, func(c *kms.Client) (err error) {
		out, err = c.Decrypt(ctx, in, (&wire{}).use)
		return err
	})
	if err != nil {
		return nil, k.stateOf(ctx, key, err)
	}
	_, err = answering(opDecrypt, key, out.KeyId)
	material := aws.ToString(out.KeyMaterialId)
	switch n := len(out.Plaintext); {
	case err != nil:
	case n < 1 || n > maxPlaintext:
		err = backends.Fail(backends.Internal, "%s was answered with a plaintext of %d bytes, not 1 to %d", opDecrypt, n, maxPlaintext)
	case version != "" && material != "" && version != material:
		err = backends.Fail(backends.InvalidCiphertext, "it was made by key material %.64q, not %.64q", material, version)
	default:
		return out.Plaintext, nil
	}
	clear(out.Plaintext)
	return nil, err
}

// use has a call use w.
func (w *wire) use(o *kms.Options) {
	w.ClientProtocol = o.Protocol
	o.Protocol = w
}

// answering holds that a success is KMS's, and about the key that was asked for.
func answering(op string, key keyARN, said *string) (keyARN, error) {
	by, ok := parseARN(aws.ToString(said))
	switch {
	case said == nil:
		return keyARN{}, backends.Fail(backends.Internal, "%s was answered with a success that names no key; does a proxy change KMS's answers?", op)
	case !ok || !key.is(by):
		return keyARN{}, backends.Fail(backends.Internal, "%s of %s was answered for another key, %s", op, key, shown(*said))
	}
	return by, nil
}

// describe returns what KMS says of a key.
func (k *KMS) describe(ctx context.Context, key keyARN) (*types.KeyMetadata, error) {
	var out *kms.DescribeKeyOutput
	err := k.call(ctx, opDescribeKey, key, nil, func(c *kms.Client) (err error) {
		out, err = c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: aws.String(key.String())})
		return err
	})
	if err != nil {
		return nil, err
	}
	if out.KeyMetadata == nil {
		return nil, backends.Fail(backends.Internal, "%s was answered with nothing", opDescribeKey)
	}
	_, err = answering(opDescribeKey, key, out.KeyMetadata.Arn)
	return out.KeyMetadata, err
}

// stateOf tells apart the meanings of KMSInvalidStateException: a key whose state
// forbids its use, and a custom key store that failed for any reason. Other
// errors it returns as they are.
func (k *KMS) stateOf(ctx context.Context, key keyARN, refused error) error {
	if !says(refused, invalidState) {
		return refused
	}
	m, err := k.describe(ctx, key)
	switch class := backends.ClassOf(err); {
	case backends.Ended(ctx) != nil:
		return gaveUp(ctx)
	case class == backends.Denied:
		return refused // as it mostly is
	case err != nil:
		return err
	}
	if err := usable(key, m); err != nil {
		return err
	}
	return backends.Fail(backends.Unavailable, "the key is enabled, but its key store does not serve: %w", refused)
}

// usable holds that a key's state allows to decrypt.
func usable(key keyARN, m *types.KeyMetadata) error {
	next := ""
	switch m.KeyState {
	case types.KeyStateEnabled:
		return nil
	case types.KeyStateCreating, types.KeyStateUpdating, types.KeyStateUnavailable:
		// An outage of a key store, or a moment's work, and no decision about the
		// key.
		return backends.Fail(backends.Unavailable, "the key's state is %s; wait, or look at its custom key store", m.KeyState)
	case types.KeyStateDisabled:
		next = "; enable it: aws kms enable-key --key-id " + key.String()
	case types.KeyStatePendingDeletion, types.KeyStatePendingReplicaDeletion:
		next = "; before it is gone for ever: aws kms cancel-key-deletion --key-id " + key.String()
	case types.KeyStatePendingImport:
		next = "; import its key material again"
	}
	return backends.Fail(backends.Disabled, "the key's state is %s%s", shown(string(m.KeyState)), next)
}
