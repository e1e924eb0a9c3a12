// Package natsd runs a nats-server with JetStream inside this process, for `telle dev` and for tests. In production
// NATS is a cluster of its own.
package natsd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// RandomPort asks for any free port.
const RandomPort = server.RANDOM_PORT

// startTimeout bounds Start. Most of it is for reading the store back.
const startTimeout = 10 * time.Second

// Options says how to run the server.
type Options struct {
	Host        string       // to listen on; 127.0.0.1 if empty, since the server asks nobody who they are
	Port        int          // for clients; 0 is the usual 4222, RandomPort any that is free
	MonitorPort int          // for monitoring over HTTP; 0 is none, RandomPort any that is free
	StoreDir    string       // where JetStream keeps its streams; made if it is not there; one server at a time
	Name        string       // of the server, without spaces; a random one if empty
	Log         *slog.Logger // takes the server's own lines; nil discards them
}

// Server is a running nats-server.
type Server struct {
	ns         *server.Server
	lock       *os.File // closing it unlocks the store
	clientURL  string
	monitorURL string
}

// Start runs a server and returns when clients can connect and JetStream answers, or with the reason why they
// cannot. ctx bounds the start only: Stop ends a server that runs. After an error nothing is left running, but for one
// case: a start that ctx or the time limit cuts short ends behind Start's back, as soon as the store has been read.
func Start(ctx context.Context, o Options) (*Server, error) {
	s, err := o.withDefaults().start(ctx)
	if err != nil {
		return nil, fmt.Errorf("embedded nats-server: %w", err)
	}
	return s, nil
}

// ClientURL is where NATS clients connect.
func (s *Server) ClientURL() string { return s.clientURL }

// MonitorURL is the root of the monitoring pages, or empty if there are none.
func (s *Server) MonitorURL() string { return s.monitorURL }

// Stop closes all connections, writes the streams to disk and returns when nothing runs any more. Further calls do
// nothing.
func (s *Server) Stop() {
	stop(s.ns)
	s.lock.Close()
}

func (o Options) withDefaults() Options {
	if o.Host == "" {
		o.Host = "127.0.0.1"
	}
	if o.Port == 0 {
		o.Port = server.DEFAULT_PORT
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o Options) start(ctx context.Context) (*Server, error) {
	if o.StoreDir == "" {
		// The server would take a directory under /tmp, shared with whoever else does.
		return nil, errors.New("no store directory given")
	}
	if err := o.probePorts(ctx); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.StoreDir, 0o750); err != nil {
		return nil, fmt.Errorf("store directory: %w", err)
	}
	lock, err := lockStore(o.StoreDir)
	if err != nil {
		return nil, err
	}
	ns, err := server.NewServer(o.native())
	if err != nil {
		lock.Close()
		return nil, err
	}
	log := &serverLog{log: o.Log}
	// Debug lines are always asked for, as the level of the log can change later; a trace line for each protocol
	// message is never.
	ns.SetLoggerV2(log, true, false, false)
	if err := await(ctx, ns, log, lock); err != nil {
		return nil, err
	}
	return &Server{ns: ns, lock: lock, clientURL: ns.ClientURL(), monitorURL: monitorURL(o.Host, ns)}, nil
}

// lockStore makes sure that no other server uses the store: two would overwrite
// each other's streams, and the server itself does not look.
func lockStore(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return nil, fmt.Errorf("store directory: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = errors.New("in use by another server")
	}
	return nil, fmt.Errorf("store directory %s: %w", dir, err)
}

func (o Options) native() *server.Options {
	return &server.Options{
		ServerName: o.Name,
		Host:       o.Host,
		Port:       o.Port,
		HTTPHost:   o.Host,
		HTTPPort:   o.MonitorPort,
		JetStream:  true,
		StoreDir:   o.StoreDir,
		NoSigs:     true, // signals belong to the process around it
	}
}

// probePorts finds ports that are taken before the server opens the store. The server itself binds the client port
// last, when it would already have opened a store that most likely belongs to the server that has the port.
func (o Options) probePorts(ctx context.Context) error {
	for _, port := range []int{o.Port, o.MonitorPort} {
		if port <= 0 {
			continue
		}
		addr := net.JoinHostPort(o.Host, strconv.Itoa(port))
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "tcp", addr)
		if err != nil {
			return fmt.Errorf("cannot listen on %s: %w", addr, err)
		}
		l.Close()
	}
	return nil
}

// await starts ns and waits until it is ready, has given up, or takes too long. If
// it fails, the lock is given back once the server has ended.
func await(ctx context.Context, ns *server.Server, log *serverLog, lock *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("not ready after %v", startTimeout))
	defer cancel()

	// ns.Start returns once the listeners are open. If it fails it returns too, and says so in its log only.
	started := make(chan struct{})
	go func() {
		defer close(started)
		ns.Start()
	}()
	select {
	case <-started:
	case <-ctx.Done():
		// ns.Start cannot be interrupted, and to stop a server that still starts is a data race within the server.
		// Whoever is told to end now is not made to wait for it.
		go func() {
			<-started
			stop(ns)
			lock.Close()
		}()
		return context.Cause(ctx)
	}
	if err := log.startDone(); err != nil {
		stop(ns)
		lock.Close()
		return err
	}
	return nil
}

func stop(ns *server.Server) {
	ns.Shutdown()
	ns.WaitForShutdown()
}

func monitorURL(host string, ns *server.Server) string {
	addr := ns.MonitorAddr()
	if addr == nil {
		return ""
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(addr.Port))
}
