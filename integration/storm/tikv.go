package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
)

// How TiKV opens a key of AWS KMS (components/cloud/aws/src/kms.rs and
// components/tikv_util/src/stream.rs of v8.5): its SDK's three attempts are one
// attempt of its own, which may take attemptTime. Of those there are up to attempts,
// after pauses that double from a second to 32 s, and a random part of a second each.
const (
	attempts    = 15
	attemptTime = 10 * time.Second
	lastPause   = 32 * time.Second
)

// restartPause is systemd's RestartSec in the unit that TiUP writes for TiKV.
const restartPause = 15 * time.Second

// tikv opens the keys of one store, as TiKV does when it starts.
type tikv struct{ keys *kms.Client }

// newTiKV returns one that asks at an endpoint, with its SDK's standard retries.
func newTiKV(endpoint, accessKey, secretKey string, client *http.Client) tikv {
	return tikv{kms.New(kms.Options{
		Region: region, BaseEndpoint: aws.String(endpoint), HTTPClient: client,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: accessKey, SecretAccessKey: secretKey}, nil
		}),
	})}
}

// start opens every blob. An error means that TiKV has ended.
func (t tikv) start(ctx context.Context, keyID string, blobs [][]byte) error {
	for _, blob := range blobs {
		if err := t.open(ctx, keyID, blob); err != nil {
			return err
		}
	}
	return nil
}

func (t tikv) open(ctx context.Context, keyID string, blob []byte) error {
	pause := time.Second
	for n := 1; ; n++ {
		attempt, cancel := context.WithTimeout(ctx, attemptTime)
		out, err := t.keys.Decrypt(attempt, &kms.DecryptInput{KeyId: aws.String(keyID), CiphertextBlob: blob})
		cancel()
		switch {
		case err == nil && len(out.Plaintext) != keySize:
			return fmt.Errorf("a key of %d bytes", len(out.Plaintext))
		case err == nil:
			return nil
		case ctx.Err() != nil, n == attempts, !retried(err):
			return err
		}
		if !sleep(ctx, pause+time.Duration(rand.Int64N(int64(time.Second)))) { //nolint:gosec // it needs no secrecy
			return ctx.Err()
		}
		pause = min(2*pause, lastPause)
	}
}

// retried tells whether TiKV tries again after err. Of KMS's answers there are only
// two upon which it does, and throttling is not among them.
func retried(err error) bool {
	var answer smithy.APIError
	if !errors.As(err, &answer) {
		return true
	}
	code := answer.ErrorCode()
	return code == "KMSInternalException" || code == "DependencyTimeoutException"
}

// sleep is false if ctx ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
