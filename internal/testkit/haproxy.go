package testkit

import (
	"os/exec"
	"testing"
)

// HAProxy returns where HAProxy is: Debian has it where only root looks.
func HAProxy(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"haproxy", "/usr/sbin/haproxy"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("there is no haproxy: make deps")
	return ""
}
