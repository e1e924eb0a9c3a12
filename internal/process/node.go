package process

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/telle-ai/event-router/internal/auth"
	"github.com/telle-ai/event-router/internal/broker"
	"github.com/telle-ai/event-router/internal/hub"
	"github.com/telle-ai/event-router/internal/ops"
	"github.com/telle-ai/event-router/internal/presence"
	"github.com/telle-ai/event-router/internal/socket"
	"github.com/telle-ai/event-router/internal/tracing"
	"github.com/telle-ai/event-router/pkg/subjects"
)

// A node is what router and bridge have in common: a broker, a hub, sockets, and
// two listeners.
type node struct {
	// Static after newNode.
	cfg     *Common
	role    string
	version string
	log     *slog.Logger
	health  *ops.Health
	metrics *ops.Metrics
	broker  *broker.Broker
	hub     *hub.Hub
	sockets *socket.Server
	public  *http.ServeMux
	auth    socket.Authenticator
	jwt     *auth.JWT // nil: no tokens are believed

	presence *presence.Counter

	recess       recess
	jwksFailures atomic.Uint64
	headers      *headerLimit // before public

	publicCert, internalCert *certificate // nil: without TLS

	tracer *tracing.Tracer // nil: nobody wants traces

	delivering []hub.StoredEvent // scratch, owned by deliver
	came       time.Time         // when the events of deliver have; owned by it
}

func newNode(role string, cfg *Common, version string, log *slog.Logger) (*node, error) {
	n := &node{
		cfg:     cfg,
		role:    role,
		version: version,
		log:     log,
		health:  ops.NewHealth(),
		metrics: ops.NewMetrics(),
		public:  http.NewServeMux(),
	}
	n.headers = &headerLimit{most: cfg.Limits.MaxHeaderBytes, next: n.public}
	if err := n.loadCertificates(); err != nil {
		return nil, err
	}
	var err error
	if n.tracer, err = tracing.New(role, version, log); err != nil {
		return nil, err
	}
	n.broker, err = broker.New(broker.Config{
		URL:       cfg.NATS.NATSURL,
		Login:     cfg.NATS.Login(role),
		Name:      connectionName(role),
		Streams:   cfg.streams(),
		HoldBytes: cfg.NATS.HoldBytes,
		AckWait:   cfg.NATS.AckWait,
		Took:      n.took(role == "bridge"),
		Traced:    n.tracer.Carries(),
		Log:       log,
		Replaced:  func() { n.hub.Replaced() },
		Deliver:   n.deliver,

		Interrupted: func(notice bool) { n.hub.Interrupt(notice) },
		Restored:    func(position uint64) { n.hub.Restore(position) },
		Doubted:     func() { n.hub.Audit() },
		Reached:     func(position uint64) { n.hub.Reached(position) },
	})
	if err != nil {
		return nil, err
	}
	n.hub = hub.New(hub.Config{
		Interest:   n.broker,
		History:    history{n.broker},
		Encoders:   socket.Encoders(),
		Notices:    socket.Notices(),
		QueueBytes: cfg.Sockets.QueueBytes,
		SlowIn:     cfg.Sockets.SlowTimeout,
		Log:        log,
		Lags:       n.lags(),
		Invalid:    n.invalid,
		Delivered:  n.delivered(),
	})
	n.health.Add("nats", n.broker.Check)
	n.health.Add(recessReason, n.recess.check)
	if err := n.route(role == "bridge"); err != nil {
		n.broker.Close()
		return nil, err
	}
	n.measure(version)
	n.measureConnection(connectionName(role))
	return n, nil
}

func (n *node) loadCertificates() (err error) {
	if n.publicCert, err = newCertificate(n.cfg.TLS.public(), n.log); err != nil {
		return err
	}
	n.internalCert, err = newCertificate(n.cfg.TLS.internal(), n.log)
	return err
}

// connectionName is what the process calls itself to NATS.
func connectionName(role string) string { return "telle-" + role + "-" + hostname() }

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

// route makes the public listener's handlers.
func (n *node) route(services bool) error {
	if err := n.authenticate(services); err != nil {
		return err
	}
	proxies, err := n.cfg.Limits.proxies()
	if err != nil {
		return err
	}
	n.presence = n.newCounter(rand.Text())
	n.sockets = socket.NewServer(socket.Config{
		Hub:          n.hub,
		Publisher:    n.stream(),
		Memory:       memory{n.broker},
		States:       n.broker,
		Carrier:      n.broker,
		History:      n.past(),
		Presence:     counted{n.presence},
		Auth:         n.auth,
		Ready:        n.ready,
		Log:          n.log,
		Limits:       n.cfg.Limits.limits(),
		Origins:      n.cfg.Sockets.AllowedOrigins,
		MaxMessage:   n.cfg.Sockets.MaxMessageBytes,
		MaxDepth:     n.cfg.Limits.MaxJSONDepth,
		HandshakeIn:  n.cfg.Sockets.HandshakeTimeout,
		PublishIn:    n.cfg.Sockets.PublishTimeout,
		WriteIn:      n.cfg.Sockets.WriteTimeout,
		PingEvery:    n.cfg.Sockets.PingInterval,
		PingAnswerIn: n.cfg.Sockets.PingTimeout,
		WarnIn:       n.cfg.Tokens.ExpiryWarning,

		TrustedProxies: proxies,
	})
	n.public.HandleFunc("GET /ws", n.sockets.ServeWebSocket)
	n.public.HandleFunc("/socket.io", n.sockets.ServeSocketIO)
	n.public.HandleFunc("/socket.io/", n.sockets.ServeSocketIO)
	n.public.HandleFunc("GET /healthz", n.health.Healthz)
	n.public.HandleFunc("GET /readyz", n.health.Readyz)
	return nil
}

// ready says whether a new socket can be served. Redis, if it is missing, is no
// reason to refuse one.
func (n *node) ready() error {
	if err := n.recess.check(); err != nil {
		return err
	}
	if err := n.broker.Check(); err != nil || n.jwt == nil {
		return err
	}
	return n.jwt.Check()
}

// deliver takes live events from the broker to the hub.
func (n *node) deliver(evs ...broker.LiveEvent) {
	n.cameNow()
	n.delivering = n.delivering[:0]
	for _, ev := range evs {
		n.delivering = append(n.delivering, hub.StoredEvent(ev))
	}
	n.hub.Deliver(n.delivering...)
	clear(n.delivering)
}

// history is what the hub reads by the broker.
type history struct{ *broker.Broker }

var _ hub.History = history{}

// Heads implements [hub.History].
func (h history) Heads(ctx context.Context, after, least uint64, followed []string) (map[string]uint64, uint64, error) {
	heads, through, err := h.Broker.Heads(ctx, after, least, followed)
	return bySubject(heads), through, err
}

// LastOfEach implements [hub.History].
func (h history) LastOfEach(ctx context.Context, after, least uint64, followed []string) (map[string]uint64, error) {
	heads, err := h.Broker.LastOfEach(ctx, after, least, followed)
	return bySubject(heads), err
}

func bySubject(heads []broker.Head) map[string]uint64 {
	m := make(map[string]uint64, len(heads))
	for _, head := range heads {
		m[head.Subject] = head.Seq
	}
	return m
}

// Page implements [hub.History].
func (h history) Page(ctx context.Context, followed string, after uint64) ([]hub.StoredEvent, error) {
	evs, _, err := h.Broker.Page(ctx, followed, after)
	if err != nil {
		return nil, err
	}
	page := make([]hub.StoredEvent, len(evs))
	for i, ev := range evs {
		page[i] = hub.StoredEvent(ev)
	}
	return page, nil
}

// Scan implements [hub.History].
func (h history) Scan(ctx context.Context, after, through uint64, take func(hub.StoredEvent) bool) error {
	return h.Broker.Scan(ctx, after, through, func(ev broker.LiveEvent) bool { return take(hub.StoredEvent(ev)) })
}

// memory is where sessions are remembered by the broker.
type memory struct{ *broker.Broker }

var _ socket.Memory = memory{}

// It does not compile if sessions are remembered for less than they may count on.
const _ = uint(broker.SessionTTL - socket.MemoryTime)

// Remember implements [socket.Memory].
func (m memory) Remember(ctx context.Context, id string, value []byte, revision uint64) (uint64, error) {
	revision, err := m.Broker.Remember(ctx, id, value, revision)
	if errors.Is(err, broker.ErrTaken) {
		err = fmt.Errorf("%w: %w", socket.ErrTaken, err)
	}
	return revision, err
}

// invalid keeps what a NATS client put into the stream without it being an event.
func (n *node) invalid(ev hub.StoredEvent, reason error) {
	n.deadStored(ev.Seq, subjects.ChatOf(ev.Subject), reason, ev.Payload)
}

func (n *node) deadStored(seq uint64, subject string, reason error, payload []byte) {
	n.log.Warn("invalid event in the stream", "subject", subject, "seq", seq, "reason", reason)
	if err := n.broker.DeadStored(seq, subject, reason.Error(), payload); err != nil {
		n.log.Error("dead letter lost", "subject", subject, "seq", seq, "error", err)
	}
}

// An eventSource brings events in until ctx ends.
type eventSource interface {
	Run(ctx context.Context) error
}

// A partFunc is a function that does what an eventSource does.
type partFunc func(ctx context.Context) error

// Run implements eventSource.
func (f partFunc) Run(ctx context.Context) error { return f(ctx) }

// run lives the node's life: start its parts, wait until it is told to end or a
// part fails, then stop them in reverse order.
func (n *node) run(life Life, l Listeners, sources ...eventSource) error {
	defer n.broker.Close()
	if err := n.tracer.Start(); err != nil {
		return err
	}
	parts := newParts()
	life.Reloads.Add(n.reloadSecrets)

	life.Reloads.Add(n.publicCert.reload)
	life.Reloads.Add(n.internalCert.reload)

	internal := n.httpServer(ops.InternalHandler(n.health, n.metrics))
	parts.start(func() error { return serving("--internal", n.internalCert.serveOn(l.Internal, internal)) })

	brokerCtx, stopBroker := context.WithCancel(context.Background())
	counterCtx, stopCounter := context.WithCancel(context.Background())
	parts.start(func() error { return n.broker.Run(brokerCtx) })
	parts.start(func() error { n.hub.Run(brokerCtx); return nil })
	parts.start(func() error { n.presence.Run(counterCtx); return nil })
	parts.start(func() error { return n.broker.ServeCarried(brokerCtx, n.sockets.Name(), n.sockets.Carried) })

	parts.start(func() error { return n.serveOperators(brokerCtx, life, l, parts) })
	if n.jwt != nil {
		parts.start(func() error { n.jwt.Run(brokerCtx); return nil })
	}
	public := n.publicServer()
	parts.start(func() error { return serving("--listen", n.publicCert.serveOn(l.Public, public)) })

	sourceCtx, stopSources := context.WithCancel(context.Background())
	sourcesEnded := make(chan struct{})
	parts.start(func() error {
		defer close(sourcesEnded)
		return runAll(sourceCtx, sources)
	})
	parts.start(func() error { return n.watchLost(sourceCtx) })
	n.log.Info("serving", "public", l.Public.Addr().String(), "internal", l.Internal.Addr().String())

	err := parts.wait(life)

	n.recess.end()
	n.health.SetDraining()
	if err == nil {
		err = n.delay(life, parts)
	}
	ctx, cancel := n.timeToEnd(life, err)
	defer cancel()
	stopSources()
	n.drain(ctx, public)
	select {
	case <-sourcesEnded:
	case <-ctx.Done(): // what they still have is lost, and they say so
	}
	err = errors.Join(err, n.flush(ctx))
	stopCounter()
	n.leavePresence(ctx)
	n.tracer.End(ctx)
	stopBroker()
	internal.Close()
	if life.Stop.Err() == nil {
		parts.stopped()
	}
	n.log.Info("ended", "error", err)
	return err
}

// runAll runs the sources until ctx ends or one of them fails.
func runAll(ctx context.Context, sources []eventSource) error {
	all, ctx := errgroup.WithContext(ctx)
	for _, s := range sources {
		all.Go(func() error { return s.Run(ctx) })
	}
	return all.Wait()
}

// delay lets a load balancer notice that the process is not ready, unless a part fails
// or it is to stop now.
func (n *node) delay(life Life, parts *parts) error {
	select {
	case <-time.After(n.cfg.Process.DrainDelay):
	case <-life.Stop.Done():
	case err := <-parts.failed:
		return err
	}
	return nil
}

// timeToEnd bounds the end of the node: the drain time and what may be under way
// then or, when it has failed or is to stop, next to nothing.
func (n *node) timeToEnd(life Life, failed error) (context.Context, context.CancelFunc) {
	const atOnce = time.Second
	if failed != nil || life.Stop.Err() != nil {
		return context.WithTimeout(context.Background(), atOnce)
	}
	return context.WithTimeout(life.Stop, n.cfg.Process.DrainTime+n.cfg.Sockets.PublishTimeout+10*time.Second)
}

// drain closes the public listener and the sockets.
func (n *node) drain(ctx context.Context, public *http.Server) {
	var requests sync.WaitGroup
	requests.Go(func() {
		if err := public.Shutdown(ctx); err != nil {
			public.Close()
		}
	})
	defer requests.Wait()
	over := n.cfg.Process.DrainTime
	if deadline, ok := ctx.Deadline(); ok {
		over = min(over, time.Until(deadline)/2)
	}
	requests.Go(func() { n.sockets.Drain(ctx, over) })
	if err := n.hub.Drain(ctx, over); err != nil {
		n.log.Warn("not all sockets closed", "error", err) // they end with the process
	}
	n.sockets.Close(ctx)
}

// flush waits until the stream has all that was taken in.
func (n *node) flush(ctx context.Context) error {
	if err := n.broker.Flush(ctx); err != nil {
		return fmt.Errorf("%w: NATS: %w", ErrLost, err)
	}
	return nil
}

func (n *node) waitReady(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		reasons := n.health.Ready()
		if len(reasons) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %s", inWords(reasons))
		case <-tick.C:
		}
	}
}

// watchLost ends the process when it has not been ready for too long.
func (n *node) watchLost(ctx context.Context) error {
	limit := n.cfg.Process.LostTimeout
	if limit == 0 {
		return nil
	}
	tick := time.NewTicker(min(limit, time.Second))
	defer tick.Stop()
	for lost := time.Now(); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		reasons := n.health.Ready()
		delete(reasons, recessReason) // is no loss
		switch {
		case len(reasons) == 0:
			lost = time.Time{}
		case lost.IsZero():
			lost = time.Now()
		case time.Since(lost) > limit:
			return fmt.Errorf("%w for more than --lost-timeout (%s): %s", ErrLost, limit, inWords(reasons))
		}
	}
}

func (n *node) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: n.cfg.Sockets.HandshakeTimeout, // and TLS has as long
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
}

// serving turns the error with which an http.Server says that it was closed into
// nil.
func serving(flag string, err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("%s: %w", flag, err)
}

// inWords lists the reasons why a process is not ready.
func inWords(reasons map[string]string) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(reasons)) {
		words = append(words, name+": "+reasons[name])
	}
	return strings.Join(words, "; ")
}
