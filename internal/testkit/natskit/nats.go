// Package natskit has a NATS server for tests. It is apart from the test kit because the tests of natsd use that.
package natskit

import (
	"context"
	"net"
	"net/url"
	"strconv"
	"testing"

	"github.com/telle-ai/event-router/internal/natsd"
)

// A Server is a nats-server that can be stopped and started again in its place.
type Server struct {
	URL string

	t      testing.TB
	port   int
	dir    string
	server *natsd.Server
}

// Start starts a server on a free port. It is stopped at the end of the test.
func Start(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, port: natsd.RandomPort, dir: t.TempDir()}
	s.Start()
	t.Cleanup(s.Stop)
	s.URL = s.server.ClientURL()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(u.Host)
	s.port, _ = strconv.Atoi(port)
	return s
}

// Start starts the server again.
func (s *Server) Start() {
	s.t.Helper()
	var err error
	if s.server, err = natsd.Start(context.Background(), natsd.Options{Port: s.port, StoreDir: s.dir}); err != nil {
		s.t.Fatal(err)
	}
}

// Stop stops the server. Its store stays.
func (s *Server) Stop() { s.server.Stop() }
