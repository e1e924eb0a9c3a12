package process

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// TLSFlags say how the two listeners prove who they are. A listener without a
// certificate speaks plain HTTP.
type TLSFlags struct {
	CertFile         string `name:"tls-cert-file" help:"PEM file with the certificate of the public listener, and those between it and its authority: it speaks TLS, 1.2 or later. Read again when it has changed, and on SIGHUP."`
	KeyFile          string `name:"tls-key-file" help:"PEM file with the key of --tls-cert-file."`
	InternalCertFile string `name:"internal-tls-cert-file" help:"The same for the internal listener."`
	InternalKeyFile  string `name:"internal-tls-key-file" help:"PEM file with the key of --internal-tls-cert-file."`
}

func (f *TLSFlags) public() pair {
	return pair{file{"--tls-cert-file", f.CertFile}, file{"--tls-key-file", f.KeyFile}}
}

func (f *TLSFlags) internal() pair {
	return pair{file{"--internal-tls-cert-file", f.InternalCertFile}, file{"--internal-tls-key-file", f.InternalKeyFile}}
}

func (f *TLSFlags) check() error { return errors.Join(f.public().check(), f.internal().check()) }

// A file that a flag names.
type file struct{ flag, path string }

func (f file) read() ([]byte, error) {
	b, err := os.ReadFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.flag, err)
	}
	return b, nil
}

// A pair is a certificate and its key. Both are given, or none.
type pair struct{ cert, key file }

func (p pair) given() bool { return p.cert.path != "" || p.key.path != "" }

func (p pair) check() error {
	if !p.given() {
		return nil
	}
	for _, f := range [][2]file{{p.cert, p.key}, {p.key, p.cert}} {
		if f[0].path == "" {
			return fmt.Errorf("%s needs %s", f[1].flag, f[0].flag)
		}
	}
	cert, key, err := p.read()
	if err == nil {
		_, err = p.parse(cert, key)
	}
	return err
}

func (p pair) read() (cert, key []byte, err error) {
	if cert, err = p.cert.read(); err == nil {
		key, err = p.key.read()
	}
	return cert, key, err
}

func (p pair) parse(cert, key []byte) (*tls.Certificate, error) {
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s: %w", p.cert.flag, p.key.flag, err)
	}
	return &c, nil
}

// A certificate is what a listener shows: what the files of its pair hold. New
// connections get what is new, others stay as they are.
type certificate struct {
	// Static.
	pair  pair
	every time.Duration // how often the files are looked at, at most
	log   *slog.Logger

	shown atomic.Pointer[tls.Certificate]

	// Guarded by mu.
	mu        sync.Mutex
	cert, key []byte // as they were read last
	bad       error  // what is wrong with them; nil: they are shown
	looked    time.Time
	told      string // what the log says is wrong
}

// lookEvery is how often files are looked at while clients connect. They are read: that
// costs little so seldom, and a file's time may stay when its content changes.
const lookEvery = 3 * time.Second

// newCertificate returns nil if there is none to show.
func newCertificate(p pair, log *slog.Logger) (*certificate, error) {
	if !p.given() {
		return nil, nil
	}
	c := &certificate{pair: p, every: lookEvery, log: log}
	return c, c.load()
}

// load shows what the files hold. They change one after the other: as long as they do
// not fit together what was shown stays.
func (c *certificate) load() error {
	first := c.looked.IsZero()
	c.looked = time.Now()
	cert, key, err := c.pair.read()
	if err != nil {
		return err
	}
	if !first && bytes.Equal(cert, c.cert) && bytes.Equal(key, c.key) {
		return c.bad
	}
	c.cert, c.key = cert, key
	parsed, err := c.pair.parse(cert, key)
	if c.bad = err; err == nil {
		c.shown.Store(parsed)
	}
	return err
}

// look loads what has changed, and tells if something is wrong, once.
func (c *certificate) look() {
	before := c.shown.Load()
	err := c.load()
	switch after := c.shown.Load(); {
	case err != nil && err.Error() != c.told:
		c.told = err.Error()
		c.log.Error("certificate not changed: the old one stays", "error", err)
	case err == nil:
		c.told = ""
		if before != after {
			c.log.Info("certificate changed", "flag", c.pair.cert.flag, "until", after.Leaf.NotAfter)
		}
	}
}

// get returns what to show. Nobody waits for another one's look.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c.mu.TryLock() {
		defer c.mu.Unlock()
		if time.Since(c.looked) >= c.every {
			c.look()
		}
	}
	return c.shown.Load(), nil
}

// reload looks at once. Who asks for that is told what is wrong, once more.
func (c *certificate) reload() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = ""
	c.look()
	return nil
}

// serveOn serves on a listener: with TLS if there is a certificate.
func (c *certificate) serveOn(l net.Listener, s *http.Server) error {
	// Never HTTP/2: a WebSocket takes over a connection of its own, which HTTP/2 does
	// not give away, and browsers would first ask for it.
	s.Protocols = new(http.Protocols)
	s.Protocols.SetHTTP1(true)
	if c == nil {
		return s.Serve(l)
	}
	s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}
	return s.ServeTLS(l, "", "")
}
