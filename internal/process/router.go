package process

import (
	"context"
	"log/slog"
)

// A Router is a router process as a value.
type Router struct{ node *node }

// NewRouter returns a router that is connecting to NATS. Run must be called.
func NewRouter(cfg RouterConfig, version string, log *slog.Logger) (*Router, error) {
	n, err := newNode("router", &cfg.Common, version, log)
	if err != nil {
		return nil, err
	}
	cfg.routeConsole(n.public, cfg.Tokens.Auth)
	return &Router{node: n}, nil
}

// Run serves on the listeners until the router's life ends. It returns when
// nothing that it started runs any more, or soon after it is to stop now.
func (r *Router) Run(life Life, l Listeners) error { return r.node.run(life, l) }

// WaitReady returns nil once the router is ready, or the reasons why not when ctx
// ends.
func (r *Router) WaitReady(ctx context.Context) error { return r.node.waitReady(ctx) }
