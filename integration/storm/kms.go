package main

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// The one master key that there is.
const (
	region  = "eu-central-1"
	account = "000000000000"
	master  = "arn:aws:kms:" + region + ":" + account + ":key/1234abcd-12ab-34cd-56ef-1234567890ab"
)

// quotaKMS speaks as much of AWS KMS's protocol as opens and makes keys, and has AWS's
// kind of quota: so many requests a second, the rest is turned away. Signatures are
// not looked at.
type quotaKMS struct {
	aead cipher.AEAD
	// open: there is no quota and no latency yet.
	open    atomic.Bool
	quota   *rate.Limiter
	latency time.Duration

	answered, turnedAway atomic.Int64
	late                 atomic.Int64 // nanoseconds that requests took beyond latency, in all

	mu sync.Mutex
	// by is how many requests of each operation were answered.
	by map[string]int
}

// newQuotaKMS returns one that is open until it is told to be strict.
func newQuotaKMS(perSecond int, latency time.Duration) (*quotaKMS, error) {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	k := &quotaKMS{aead: aead, quota: rate.NewLimiter(rate.Limit(perSecond), perSecond), latency: latency, by: map[string]int{}}
	k.open.Store(true)
	return k, nil
}

// request has what the operations take.
type request struct {
	Plaintext, CiphertextBlob []byte
	EncryptionContext         map[string]string
}

// reply has what they answer.
type reply struct {
	KeyID               string `json:"KeyId"`
	Plaintext           []byte `json:",omitempty"`
	CiphertextBlob      []byte `json:",omitempty"`
	EncryptionAlgorithm string
}

// ServeHTTP implements http.Handler.
func (k *quotaKMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var req request
	err := json.NewDecoder(r.Body).Decode(&req)
	op := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	if !k.open.Load() {
		// The decision is made half-way: it counts also if the caller has gone since.
		began := time.Now()
		time.Sleep(k.latency / 2)
		allowed := k.quota.Allow()
		time.Sleep(k.latency - k.latency/2)
		k.late.Add(int64(time.Since(began) - k.latency))
		if !allowed {
			k.turnedAway.Add(1)
			refuse(w, "ThrottlingException", "Rate exceeded")
			return
		}
		k.count(op)
	}
	if err != nil {
		refuse(w, "SerializationException", err.Error())
		return
	}
	answer := reply{KeyID: master, EncryptionAlgorithm: "SYMMETRIC_DEFAULT"}
	switch op {
	case "Encrypt":
		answer.CiphertextBlob = k.aead.Seal(nil, nil, req.Plaintext, bound(req.EncryptionContext))
	case "Decrypt":
		if answer.Plaintext, err = k.aead.Open(nil, nil, req.CiphertextBlob, bound(req.EncryptionContext)); err != nil {
			refuse(w, "InvalidCiphertextException", "")
			return
		}
	default:
		refuse(w, "UnknownOperationException", op)
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	_ = json.NewEncoder(w).Encode(answer)
}

func (k *quotaKMS) count(op string) {
	k.answered.Add(1)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.by[op]++
}

// lateness is how late the machine was on average: if it is too busy with other things,
// what was measured says little.
func (k *quotaKMS) lateness() time.Duration {
	return time.Duration(k.late.Load() / max(1, k.answered.Load()+k.turnedAway.Load()))
}

// operations tells how many of each were answered.
func (k *quotaKMS) operations() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var said []string
	for _, op := range slices.SortedFunc(maps.Keys(k.by), func(x, y string) int { return cmp.Compare(k.by[y], k.by[x]) }) {
		said = append(said, fmt.Sprintf("%d %s", k.by[op], op))
	}
	return strings.Join(said, ", ")
}

func refuse(w http.ResponseWriter, code, message string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(http.StatusBadRequest)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": message})
}

// bound is an encryption context as associated data: encoding/json sorts it.
func bound(pairs map[string]string) []byte {
	text, _ := json.Marshal(pairs) // a map of strings always can be
	return text
}
