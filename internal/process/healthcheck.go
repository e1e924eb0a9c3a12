package process

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// A healthcheck asks a process on the same machine how it is. Images have no other program that could.
type healthcheck struct {
	Ready    bool          `env:"-" help:"Ask whether it is ready, not only whether it is sane."`
	Timeout  time.Duration `env:"-" default:"2s" help:"How long it may take to answer."`
	Internal string        `default:"${internal}" help:"The internal address of the process, as it is told itself."`
	CertFile string        `name:"internal-tls-cert-file" help:"The certificate of that address, if it has one: then it is asked over TLS."`
}

// asksWhetherSane is said by --help of who has the command.
const asksWhetherSane = "With healthcheck as first argument: asks the one that runs whether it is sane."

// isHealthcheck says whether arguments are those of a healthcheck. It is no command of the flag parser, which would then take
// all flags of the process for those of another command.
func isHealthcheck(args []string) bool { return len(args) > 0 && args[0] == "healthcheck" }

// healthcheck asks the process, whose internal address has a default, and returns the exit code.
func (m Main) healthcheck(internal string) int {
	var h healthcheck
	m.Name, m.Args = m.Name+" healthcheck", m.Args[1:]
	parsed, err := m.parse(&h, "Asks the process on this machine whether it is sane. Exit code 0: it is; 1: it is not.",
		map[string]string{"internal": internal})
	if err != nil || parsed == nil {
		return m.exit(err)
	}
	answer, err := h.ask()
	if err != nil {
		return m.exit(err)
	}
	fmt.Fprint(m.Stdout, answer)
	return exitClean
}

// ask returns what the process answers, or an error if that is not that it is well.
func (h *healthcheck) ask() (string, error) {
	url, err := h.url()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), h.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	client := http.Client{Transport: &http.Transport{
		// No name is in the address, and nobody but us can listen there.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(strings.TrimSpace(string(answer)))
	}
	return string(answer), nil
}

// url returns the URL to ask. Where the process listens on all addresses it is asked on the loopback one.
func (h *healthcheck) url() (string, error) {
	address, err := net.ResolveTCPAddr("tcp", h.Internal)
	if err != nil {
		return "", fmt.Errorf("--internal must be [host]:port, not %q", h.Internal)
	}
	if address.IP == nil || address.IP.IsUnspecified() {
		address.IP = net.IPv4(127, 0, 0, 1)
	}
	scheme, path := "http", "/healthz"
	if h.CertFile != "" {
		scheme = "https"
	}
	if h.Ready {
		path = "/readyz"
	}
	return scheme + "://" + address.String() + path, nil
}
