package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keybroker/keybroker/audit"
	"github.com/keybroker/keybroker/broker"
	"github.com/keybroker/keybroker/broker/admin"
	"github.com/keybroker/keybroker/broker/awsapi"
	"github.com/keybroker/keybroker/broker/grpcapi"
	"github.com/keybroker/keybroker/broker/peer"
	"github.com/keybroker/keybroker/internal/bootclock"
	"github.com/keybroker/keybroker/internal/config"
	"github.com/keybroker/keybroker/internal/secret"
	"github.com/keybroker/keybroker/internal/telemetry"
)

const (
	// callTimeout bounds a call, whatever deadline its caller set: three
	// attempts at a KMS that hangs.
	callTimeout = 10 * time.Second
	// auditTimeout bounds the wait for an audit record. A disk that takes longer
	// is as good as none.
	auditTimeout = 5 * time.Second
	// drainTimeout is how long calls that are under way may finish at the end.
	// Service managers and rolling restarts wait at least 20 s.
	drainTimeout = 15 * time.Second
	// scrapeTimeout is how long the metrics under way may take at the end.
	scrapeTimeout = time.Second
	// closeTimeout bounds what comes after: the audit's last record and sync.
	closeTimeout = 4 * time.Second
)

// serveOptions are the flags of serve.
type serveOptions struct {
	config              string
	insecure            bool
	logFormat, logLevel string
	// dev serves gRPC reflection too, and does not warn of a configuration that
	// `keybroker dev` made itself.
	dev bool
	// admin is the address of metrics and health in place of the configuration's;
	// empty for none. Nil: as the configuration says.
	admin *string
	// aws is the address of the AWS-KMS-compatible endpoint in place of the
	// configuration's; empty for none. Nil: as the configuration says.
	aws *string
	// ready is called once the broker serves. May be nil.
	ready func()
}

// listen is where to listen, by the configuration and the options.
func (o serveOptions) listen(l config.Listen) config.Listen {
	switch {
	case o.admin == nil:
	case *o.admin == "":
		l.Admin = nil
	default:
		l.Admin = &config.Admin{Address: *o.admin}
	}
	switch {
	case o.aws == nil || l.AWSKMS == nil:
	case *o.aws == "":
		l.AWSKMS = nil
	default:
		elsewhere := *l.AWSKMS
		elsewhere.Address = *o.aws
		l.AWSKMS = &elsewhere
	}
	return l
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, env *Env, opts serveOptions) error {
	d := daemon{opts: opts, started: time.Now()}
	var err error
	if d.log, err = newLogger(env.Stderr, opts.logFormat, opts.logLevel); err != nil {
		return err
	}
	if err := harden(d.log, opts.insecure); err != nil {
		return err
	}
	if d.cfg, err = config.Load(opts.config); err != nil {
		return configError(err)
	}
	if !opts.dev {
		for _, w := range d.cfg.Warnings {
			d.log.Warn("configuration", "warning", w.String())
		}
	}

	// The arena comes before anything that could hold a key.
	arena, err := newArena(d.cfg.Memory)
	if err != nil {
		return err
	}
	defer func() { _ = arena.Close() }()
	if w := arena.Warning(); w != "" {
		d.log.Warn("key bytes are not in locked memory", "cause", w)
	}

	d.metrics = telemetry.New(versionText(), revision(), runtime.Version())
	if d.audit, err = openAudit(d.cfg, d.log, d.metrics); err != nil { //nolint:contextcheck // the log outlives any call
		return err
	}
	stopExport, err := exportAudit(d.cfg, d.audit, d.log, d.metrics) //nolint:contextcheck // it lasts until it is stopped, not as long as a call
	if err != nil {
		return errors.Join(err, d.closeAudit(ctx))
	}
	defer stopExport() // after the log was closed, so that its last records go, too
	relay := newRelay(d.cfg.Cache, d.log)
	defer relay.close()
	d.wiring = &wiring{path: opts.config, log: d.log, metrics: d.metrics, started: d.cfg}
	settings, err := d.wiring.settings(d.cfg)
	if err != nil {
		return errors.Join(err, d.closeAudit(ctx))
	}
	spread := broker.DefaultStartSpread
	if opts.dev {
		spread = 0 // it has no fleet, and somebody waits for what it says
	}
	sealed := openPersist(d.cfg.Cache, d.log)
	defer closePersist(ctx, sealed, d.log)
	if d.cfg.Cache.Persist != nil {
		d.metrics.Sealed(func() bool { return sealed.File != nil && !sealed.File.Gone() })
	}
	d.broker, err = broker.New(ctx, broker.Options{
		Version: versionText(), BootID: bootclock.BootID(), Load: d.wiring.load, Audit: d.audit, Arena: arena,
		Handover: relay.memory, Received: relay.received, Persist: sealed,
		CacheCapacity: d.cfg.Cache.Capacity, CallTimeout: callTimeout, AuditTimeout: auditTimeout,
		Patience: broker.DefaultPatience, StartSpread: spread,
		Now: time.Now, Uptime: bootclock.Now, Random: rand.Reader, Logger: d.log, Observer: d.metrics,
	}, settings)
	if err != nil {
		return errors.Join(err, d.closeAudit(ctx))
	}
	relay.pass()
	_ = sealed.Left.Close() // it was only read
	err = d.run(ctx)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return errors.Join(err, d.broker.Close(last), d.audit.Close(last))
}

// daemon is what serve has put together.
type daemon struct {
	opts    serveOptions
	started time.Time
	cfg     *config.Config
	log     *slog.Logger
	metrics *telemetry.Metrics
	audit   *audit.Log
	wiring  *wiring
	broker  *broker.Broker
}

// run opens the front doors and serves until ctx ends, then drains.
func (d *daemon) run(ctx context.Context) error {
	var serverTLSConfig *tls.Config
	if d.cfg.Listen.GRPCTCP != nil {
		var err error
		if serverTLSConfig, err = serverTLS(d.cfg.Listen.GRPCTCP.CertFile, d.cfg.Listen.GRPCTCP.KeyFile, d.cfg.Listen.GRPCTCP.ClientCAFile); err != nil {
			return fmt.Errorf("listen.grpc_tcp: %w", err)
		}
	}
	grpcServer := grpcapi.New(grpcapi.Config{
		Broker: d.broker, TLS: serverTLSConfig, Reflection: d.opts.dev, Refused: d.refused, Logger: d.log,
		About: grpcapi.About{Version: versionText(), Node: d.cfg.Node, StartedAt: d.started},
	})
	awsServer, err := d.awsServer() //nolint:contextcheck // it lives until Stop, not as long as a call
	if err != nil {
		return err
	}
	adminServer := admin.NewServer(admin.Config{
		Gatherer: d.metrics.Registry, Serves: d.broker.Serves,
		Auditing:   func() error { return d.audit.Head().Err },
		Checkpoint: func() []byte { return d.audit.Checkpoint().Note },
	})
	doors, err := openDoors(d.opts.listen(d.cfg.Listen), d.log, d.refused) //nolint:contextcheck // what it dials is local and answers at once
	if err != nil {
		return err
	}

	group, ctx := errgroup.WithContext(ctx)
	for _, l := range doors.grpc {
		group.Go(func() error { return grpcServer.Serve(l) })
	}
	if awsServer != nil {
		group.Go(func() error { return awsServer.Serve(doors.awsKMS) })
	}
	if doors.admin != nil {
		group.Go(func() error {
			if err := adminServer.Serve(doors.admin); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	group.Go(func() error {
		d.audit.Watch(ctx, int64(d.cfg.Audit.MinFree))
		return nil
	})
	group.Go(func() error { return d.reloadOnHangup(ctx) })
	if d.cfg.Audit.Anchor != nil {
		group.Go(func() error {
			d.anchorAudit(ctx)
			return nil
		})
	}
	group.Go(func() error { return pingWatchdog(ctx, func() { _, _ = d.broker.Serves(), d.audit.Head() }) })
	group.Go(func() error {
		<-ctx.Done()
		d.log.Info("draining")
		notifyStopping()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		var stopping sync.WaitGroup
		stopping.Go(func() { grpcServer.Stop(drain) })
		if awsServer != nil {
			stopping.Go(func() {
				if err := awsServer.Stop(drain); err != nil {
					d.log.Warn("draining", "error", err)
				}
			})
		}
		stopping.Wait()
		return stopAdmin(drain, adminServer)
	})
	d.log.Info("ready", "version", versionText(), "node", d.cfg.Node, "config_sha256", d.cfg.SHA256, "took", time.Since(d.started).String())
	notifyReady(d.log)
	if d.opts.ready != nil {
		d.opts.ready()
	}
	return group.Wait()
}

// stopAdmin ends the service of metrics and health. Who is answered at the moment
// gets his answer, if he takes it within scrapeTimeout: nobody who may do nothing
// else delays the end of the broker, or has it fail.
func stopAdmin(ctx context.Context, server *http.Server) error {
	ctx, cancel := context.WithTimeout(ctx, scrapeTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return server.Close()
}

// awsServer returns the AWS-KMS-compatible endpoint, nil if there is none.
func (d *daemon) awsServer() (*awsapi.Server, error) {
	a := d.opts.listen(d.cfg.Listen).AWSKMS
	if a == nil {
		return nil, nil
	}
	var over *tls.Config
	if a.CertFile != "" {
		var err error
		if over, err = serverTLS(a.CertFile, a.KeyFile, ""); err != nil {
			return nil, fmt.Errorf("listen.aws_kms: %w", err)
		}
	}
	return awsapi.New(awsapi.Config{
		Broker: d.broker, Region: a.Region, Account: a.Account, AnswerBy: a.AnswerBy, ClockWindow: a.ClockWindow,
		TLS: over, KeyOf: d.broker.KeyPassing, Now: time.Now, Logger: d.log,
	})
}

// refused puts on the record that a connection was closed before its first call.
func (d *daemon) refused(caller peer.Identity, why error) {
	d.broker.RefuseConnection(context.Background(), "connect", caller, why)
}

// reloadOnHangup reads the configuration again at each SIGHUP. A bad one is
// logged and changes nothing.
func (d *daemon) reloadOnHangup(ctx context.Context) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			if err := d.broker.ReloadBySignal(ctx); err != nil {
				d.log.Error("reload", "error", err)
			}
			d.reopenAudit(ctx)
		}
	}
}

// reopenAudit does not wait for a disk that hangs: the next SIGHUP may be the remedy.
func (d *daemon) reopenAudit(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, auditTimeout)
	defer cancel()
	if err := d.audit.Reopen(ctx); err != nil {
		d.log.Error("reopen the audit log", "error", err)
	}
}

// closeAudit closes the log, also if ctx has ended.
func (d *daemon) closeAudit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	return d.audit.Close(ctx)
}

// harden protects the process's memory before it holds any key.
func harden(log *slog.Logger, insecure bool) error {
	err := secret.Harden()
	if err == nil {
		return nil
	}
	if insecure {
		log.Warn("this process is not protected from core dumps and other processes", "error", err)
		return nil
	}
	return fmt.Errorf("the process cannot be protected: %w; --insecure starts it all the same", err)
}

func newArena(m config.Memory) (*secret.Arena, error) {
	mode := secret.Prefer
	if m.RequireLocked {
		mode = secret.Require
	}
	return secret.NewArena(secret.Config{Bytes: m.Size, Locked: mode})
}
