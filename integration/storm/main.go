// Command storm restarts a fleet within seconds while its KMS has a quota, once with
// a broker on each node and once as TiKV asks AWS KMS itself, and tells what it cost.
//
// All nodes are in this process: the brokers are real, with their AWS backend, their
// AWS-KMS-compatible door and their audit log, each on a port of its own; the KMS is a
// server that speaks AWS's protocol. What a store does when it starts is in tikv.go.
// It fails if a node with a broker gave up, and says so if their fleet took more than 1.2
// times what the quota allows, or more than 1.1 requests a node.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// keysEach is how many wrapped keys a store opens when it starts.
const keysEach = 3

// fleet is what restarts.
type fleet struct {
	nodes, perSecond int
	latency          time.Duration
	within           time.Duration // all restart
	watched          time.Duration // from the first restart
	dir              string
	client           *http.Client // the stores'
	said             io.Writer
}

func main() {
	f := fleet{said: os.Stderr}
	table := flag.String("table", "", "the file that the table goes to, between its marks if it has them; empty for standard output")
	flag.IntVar(&f.nodes, "nodes", 1000, "nodes")
	flag.IntVar(&f.perSecond, "rate", 50, "requests a second that the KMS answers")
	flag.DurationVar(&f.latency, "latency", 200*time.Millisecond, "the KMS's latency")
	flag.DurationVar(&f.within, "within", 10*time.Second, "time within which all restart")
	flag.DurationVar(&f.watched, "watched", 50*time.Second, "time that a fleet is watched from the first restart on")
	flag.Parse()
	if err := f.run(context.Background(), *table); err != nil {
		fmt.Fprintln(os.Stderr, "storm:", err)
		os.Exit(1)
	}
}

func (f *fleet) run(ctx context.Context, table string) error {
	dir, err := os.MkdirTemp("", "storm")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	f.dir = dir
	// The brokers' own; the KMS takes any.
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIDSTORM", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": ""} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 1 << 12}
	defer transport.CloseIdleConnections()
	f.client = &http.Client{Transport: transport}

	brokers, err := f.withBrokers(ctx)
	if err != nil {
		return err
	}
	var direct [2]outcome
	var both errgroup.Group
	for i, keys := range []int{1, keysEach} {
		both.Go(func() (err error) { direct[i], err = f.direct(ctx, keys); return err })
	}
	if err := both.Wait(); err != nil {
		return err
	}
	if err := report(table, f.watched, brokers, direct[:]); err != nil {
		return err
	}
	if missed := brokers.missed(); missed != "" {
		fmt.Fprintf(f.said, "storm: not what is aimed at: %s; timers were %v late\n", missed, brokers.late)
	}
	return brokers.judge()
}

// withBrokers is a fleet with a broker on each node.
func (f *fleet) withBrokers(ctx context.Context) (outcome, error) {
	k, endpoint, stop, err := f.serveKMS()
	if err != nil {
		return outcome{}, err
	}
	defer stop()
	fmt.Fprintf(f.said, "storm: %d brokers make their stores' keys\n", f.nodes)
	blobs := make([][][]byte, f.nodes)
	var made errgroup.Group
	made.SetLimit(8)
	for i := range f.nodes {
		made.Go(func() error {
			n, err := startNode(ctx, f.dirOf(i), endpoint)
			if err != nil {
				return err
			}
			blobs[i], err = n.makeKeys(ctx, keysEach)
			return errors.Join(err, n.stop(ctx))
		})
	}
	if err := made.Wait(); err != nil {
		return outcome{}, err
	}
	fmt.Fprintln(f.said, "storm: they restart")
	nodes := make([]*node, f.nodes)
	defer func() {
		var stopped sync.WaitGroup
		for _, n := range nodes {
			if n != nil {
				stopped.Go(func() { _ = n.stop(ctx) })
			}
		}
		stopped.Wait()
	}()
	return f.restart(ctx, "keybroker on each node", k, f.nodes, func(ctx context.Context, i int) error {
		if nodes[i] == nil {
			n, err := startNode(ctx, f.dirOf(i), endpoint)
			if err != nil {
				return err
			}
			nodes[i] = n
		}
		return nodes[i].store(f.client).start(ctx, keyName, blobs[i])
	})
}

// direct is a fleet of stores that ask the KMS themselves, for so many keys each.
func (f *fleet) direct(ctx context.Context, keys int) (outcome, error) {
	k, endpoint, stop, err := f.serveKMS()
	if err != nil {
		return outcome{}, err
	}
	defer stop()
	blobs := make([][]byte, keys)
	for i := range blobs {
		key := make([]byte, keySize)
		_, _ = rand.Read(key) // never fails
		blobs[i] = k.aead.Seal(nil, nil, key, bound(nil))
	}
	fmt.Fprintf(f.said, "storm: %d stores restart without brokers, with %d keys each\n", f.nodes, keys)
	name := "TiKV asks the KMS itself, " + strconv.Itoa(keys) + " keys"
	if keys == 1 {
		name = "TiKV asks the KMS itself, 1 key"
	}
	return f.restart(ctx, name, k, f.nodes*keys, func(ctx context.Context, _ int) error {
		return newTiKV(endpoint, "AKIDSTORM", "secret", f.client).start(ctx, master, blobs)
	})
}

// restart starts every node at a random time. One whose store has ended is started
// again, as systemd does.
func (f *fleet) restart(ctx context.Context, name string, k *quotaKMS, needed int, start func(context.Context, int) error) (outcome, error) {
	k.open.Store(false)
	out := outcome{name: name, nodes: f.nodes, perSecond: f.perSecond, needed: needed}
	ctx, cancel := context.WithTimeout(ctx, f.watched)
	defer cancel()
	began := time.Now()
	var all sync.WaitGroup
	var mu sync.Mutex
	for i := range f.nodes {
		at := time.Duration(mathrand.Int64N(int64(f.within))) //nolint:gosec // it needs no secrecy
		all.Go(func() {
			if !sleep(ctx, at) {
				return
			}
			for failed := 0; ; failed++ {
				err := start(ctx, i)
				mu.Lock()
				switch {
				case err == nil:
					out.up = append(out.up, time.Since(began))
					if len(out.up) == f.nodes {
						out.answered, out.turnedAway = k.answered.Load(), k.turnedAway.Load()
					}
				case ctx.Err() == nil:
					out.failedStarts++
					if failed == 0 {
						out.gaveUp++
					}
					out.why = err.Error()
				}
				mu.Unlock()
				if err == nil || !sleep(ctx, restartPause) {
					return
				}
			}
		})
	}
	all.Wait()
	if len(out.up) < f.nodes {
		out.answered, out.turnedAway = k.answered.Load(), k.turnedAway.Load()
	}
	<-ctx.Done()
	out.late = k.lateness()
	fmt.Fprintf(f.said, "storm: %s: %d of %d up, the last after %v; the KMS answered %d requests until then, %d in %v (%s), and turned away %d; failed starts: %d %s; its timers were %v late\n",
		name, len(out.up), f.nodes, out.took(), out.answered, k.answered.Load(), f.watched, k.operations(), out.turnedAway, out.failedStarts, out.why, out.late)
	return out, nil
}

func (f *fleet) dirOf(i int) string {
	dir := filepath.Join(f.dir, "node"+strconv.Itoa(i))
	_ = os.MkdirAll(dir, 0o700)
	return dir
}

// serveKMS serves a KMS until stop is called.
func (f *fleet) serveKMS() (_ *quotaKMS, endpoint string, stop func(), _ error) {
	k, err := newQuotaKMS(f.perSecond, f.latency)
	if err != nil {
		return nil, "", nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", nil, err
	}
	s := &http.Server{Handler: k, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	return k, "http://" + l.Addr().String(), func() { _ = s.Close() }, nil
}
