package process

import (
	"context"
	"log/slog"
	"testing"

	"github.com/telle-ai/event-router/internal/natsd"
)

// startNATS starts a server that ends with the test.
func startNATS(t testing.TB) *natsd.Server {
	t.Helper()
	ns, err := natsd.Start(t.Context(), natsd.Options{Port: natsd.RandomPort, MonitorPort: natsd.RandomPort, StoreDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Stop)
	return ns
}

// routerDefaults returns what a router has that believes every client and ends soon.
func routerDefaults(t testing.TB) (cfg RouterConfig) {
	t.Helper()
	if err := ApplyDefaults(&cfg); err != nil {
		t.Fatal(err)
	}
	cfg.Listen, cfg.Tokens.Auth, cfg.Process.DrainTime = "127.0.0.1:0", "none", 0
	return cfg
}

// runRouter runs a router until the test ends, and returns when it is ready.
func runRouter(t testing.TB, cfg RouterConfig, log *slog.Logger) (*Router, Listeners) {
	t.Helper()
	r, err := NewRouter(cfg, "test", log)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*certificate{r.node.publicCert, r.node.internalCert} {
		if c != nil {
			c.every = 0
		}
	}
	l, err := Listen("127.0.0.1:0", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	drain, end := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(Life{Drain: drain, Stop: context.Background()}, l) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if err := r.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r, l
}
