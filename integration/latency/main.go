// Command latency compares a cached UnwrapKey with a unary call that does
// nothing, over the same connection of a running broker, in one run.
//
// The two alternate in short rounds, so that whatever else the machine does
// falls on both alike. Quote the ratios; the times are this machine's.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	keybrokerv1 "github.com/keybroker/keybroker/proto/keybroker/v1"
)

func main() {
	socket := flag.String("socket", os.Getenv("KEYBROKER_SOCKET"), "the broker's socket")
	key := flag.String("key", "demo", "a key that this user may generate and unwrap with")
	rounds := flag.Int("rounds", 40, "rounds of each call")
	calls := flag.Int("calls", 500, "calls a round with one caller")
	callers := flag.Int("callers", 64, "callers of the throughput part")
	flag.Parse()
	if err := run(*socket, *key, *rounds, *calls, *callers); err != nil {
		fmt.Fprintln(os.Stderr, "latency:", err)
		os.Exit(1)
	}
}

type call func(context.Context) error

func run(socket, key string, rounds, calls, callers int) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ctx := context.Background()
	kb, health := keybrokerv1.NewKeyBrokerClient(conn), healthpb.NewHealthClient(conn)
	made, err := kb.GenerateDataKey(ctx, &keybrokerv1.GenerateDataKeyRequest{KeyName: key})
	if err != nil {
		return err
	}
	noop := func(ctx context.Context) error {
		_, err := health.Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	}
	unwrap := func(ctx context.Context) error {
		r, err := kb.UnwrapKey(ctx, &keybrokerv1.UnwrapKeyRequest{WrappedKey: made.GetWrappedKey()})
		if err == nil && r.GetSource() != keybrokerv1.Source_SOURCE_CACHE {
			return fmt.Errorf("the key was not served from the cache but from %s", r.GetSource())
		}
		return err
	}

	names := []string{"no-op", "unwrap"}
	took := map[string][]time.Duration{}
	for round := range rounds + 1 {
		for _, name := range names {
			f := noop
			if name == "unwrap" {
				f = unwrap
			}
			d, err := serial(ctx, f, calls)
			if err != nil {
				return err
			}
			if round > 0 { // the first round warms up
				took[name] = append(took[name], d...)
			}
		}
	}
	perSecond := map[string][]float64{}
	for round := range rounds/4 + 1 {
		for _, name := range names {
			f := noop
			if name == "unwrap" {
				f = unwrap
			}
			rate, err := parallel(ctx, f, calls*callers/8, callers)
			if err != nil {
				return err
			}
			if round > 0 {
				perSecond[name] = append(perSecond[name], rate)
			}
		}
	}

	fmt.Printf("%-8s %12s %12s %22s\n", "call", "p50", "p99", fmt.Sprintf("calls/s, %d callers", callers))
	for _, name := range names {
		fmt.Printf("%-8s %12s %12s %22.0f\n", name, quantile(took[name], .5), quantile(took[name], .99), quantile(perSecond[name], .5))
	}
	ratio := func(q float64) float64 {
		return float64(quantile(took["unwrap"], q)) / float64(quantile(took["no-op"], q))
	}
	fmt.Printf("%-8s %11.2fx %11.2fx %21.2fx\n", "ratio", ratio(.5), ratio(.99),
		quantile(perSecond["unwrap"], .5)/quantile(perSecond["no-op"], .5))
	return nil
}

// serial times n calls, one after the other.
func serial(ctx context.Context, f call, n int) ([]time.Duration, error) {
	took := make([]time.Duration, n)
	for i := range took {
		began := time.Now()
		if err := f(ctx); err != nil {
			return nil, err
		}
		took[i] = time.Since(began)
	}
	return took, nil
}

// parallel makes n calls with as many callers as told, and returns calls a
// second.
func parallel(ctx context.Context, f call, n, callers int) (float64, error) {
	var left atomic.Int64
	left.Store(int64(n))
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	began := time.Now()
	for range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := f(ctx); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(n) / time.Since(began).Seconds(), nil
}

func quantile[T float64 | time.Duration](all []T, q float64) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[int(q*float64(len(sorted)-1))]
}
