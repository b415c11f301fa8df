package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/backends/awskms"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/awsapi"
	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/broker/policy"
	"github.com/keybroker/keybroker/cache"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/telemetry"
)

const (
	uid       = 4711
	accessKey = "KBSTORM"
	secretKey = "0123456789abcdef0123456789abcdef0123" // of this program alone
	keyName   = "tikv"
	keySize   = 32
)

// node is a broker with its front door, as `keybroker serve` puts them together, on
// a port of its own.
type node struct {
	broker   *broker.Broker
	server   *awsapi.Server
	log      *audit.Log
	arena    *secret.Arena
	endpoint string
	served   chan error
}

// call is one of the store's on this node.
func call() broker.Call {
	return broker.Call{API: "storm", Method: "Storm", Caller: caller(nil), RequestID: "storm"}
}

// caller is who is at the other end of any connection.
func caller(net.Conn) peer.Identity {
	return peer.Identity{Network: peer.AWS, UID: uid, UIDKnown: true, AccessKeyID: accessKey}
}

// startNode starts the broker of a node, whose audit log is in dir, before the KMS at
// endpoint.
func startNode(ctx context.Context, dir, endpoint string) (_ *node, err error) {
	n := &node{served: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.stop(ctx))
		}
	}()
	quiet := slog.New(slog.DiscardHandler)
	if n.log, err = audit.Open(audit.Config{ //nolint:contextcheck // the log outlives the call
		Path: filepath.Join(dir, "audit.jsonl"), Node: filepath.Base(dir), Sync: audit.SyncOS, SyncInterval: time.Second,
		Now: time.Now, Random: rand.Reader, Logger: quiet,
	}); err != nil {
		return nil, err
	}
	// A thousand arenas do not fit into one process's limit.
	if n.arena, err = secret.NewArena(secret.Config{Bytes: 16 * secret.SlotSize, Locked: secret.Prefer}); err != nil {
		return nil, err
	}
	settings, err := nodeSettings(endpoint) //nolint:contextcheck // a new backend calls nobody
	if err != nil {
		return nil, err
	}
	if n.broker, err = broker.New(ctx, broker.Options{
		Version: "storm", Load: func(context.Context) (broker.Settings, error) { return settings, nil },
		Audit: n.log, Arena: n.arena, CacheCapacity: 16,
		CallTimeout: 10 * time.Second, AuditTimeout: 5 * time.Second,
		Patience: broker.DefaultPatience, StartSpread: broker.DefaultStartSpread,
		Now: time.Now, Uptime: time.Now, Random: rand.Reader, Logger: quiet, Observer: telemetry.New("storm", "", ""),
	}, settings); err != nil {
		return nil, err
	}
	if n.server, err = awsapi.New(awsapi.Config{Broker: n.broker, Region: region, Account: account, Caller: caller}); err != nil { //nolint:contextcheck // nor does this
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n.endpoint = "http://" + l.Addr().String()
	go func() { n.served <- n.server.Serve(l) }()
	return n, nil
}

// nodeSettings are the defaults of the configuration, for one key in AWS KMS.
func nodeSettings(endpoint string) (broker.Settings, error) {
	who := uint32(uid)
	p, err := policy.New([]policy.Client{{
		Name: "store", Match: policy.Match{AWS: &policy.AWSMatch{AccessKeyID: accessKey, UID: &who}},
		Allow: []policy.Rule{{Keys: []string{keyName}, Operations: []policy.Operation{policy.Any}}},
	}})
	if err != nil {
		return broker.Settings{}, err
	}
	const timeout = 3 * time.Second
	k, err := awskms.New(awskms.Config{Region: region, Endpoint: endpoint, Timeout: timeout})
	if err != nil {
		return broker.Settings{}, err
	}
	return broker.Settings{
		Backends: map[string]broker.Backend{"aws": {KMS: k, Provider: awskms.Provider, Type: "aws-kms", Timeout: timeout}},
		Keys: []broker.Key{{
			Name: keyName, Recipients: []broker.Recipient{{Backend: "aws", Key: master}}, MinRecipients: 1,
			CheckInterval: 5 * time.Minute,
			Limits:        cache.Limits{TTL: time.Hour, RefreshAfter: 45 * time.Minute, MaxStale: 72 * time.Hour, NegativeTTL: 5 * time.Second},
			MaxAge:        24 * time.Hour, MaxUses: 1 << 20,
		}},
		Policy:     p,
		MissRates:  map[string]float64{"store": 50},
		AccessKeys: map[string]secret.Value{accessKey: secret.NewValue([]byte(secretKey))},
		SHA256:     "storm",
	}, nil
}

// makeKeys returns the store's wrapped keys.
func (n *node) makeKeys(ctx context.Context, count int) ([][]byte, error) {
	var blobs [][]byte
	for range count {
		g, err := n.broker.Generate(ctx, call(), broker.GenerateRequest{KeyName: keyName, Length: keySize})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errors.Unwrap(err))
		}
		g.Plaintext.Wipe()
		blobs = append(blobs, g.WrappedKey)
	}
	return blobs, nil
}

// store returns the TiKV of this node.
func (n *node) store(client *http.Client) tikv {
	return newTiKV(n.endpoint, accessKey, secretKey, client)
}

// stop ends the node. It may be called on one that did not start.
func (n *node) stop(ctx context.Context) error {
	var err error
	if n.endpoint != "" {
		err = errors.Join(n.server.Stop(ctx), <-n.served)
	}
	if n.broker != nil {
		err = errors.Join(err, n.broker.Close(ctx))
	}
	if n.log != nil {
		err = errors.Join(err, n.log.Close(ctx))
	}
	if n.arena != nil {
		err = errors.Join(err, n.arena.Close())
	}
	return err
}
