package secret

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/telle-ai/event-router/internal/testkit"
)

func written(t *testing.T, content string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestASecretIsWhatTheFileHoldsButForTheEndOfItsLine(t *testing.T) {
	for content, want := range map[string]string{"a": "a", "a\n": "a", "a\r\n": "a", " a b ": " a b ", "a\nb\n\n": "a\nb"} {
		if got, err := Read(written(t, content)); got != want || err != nil {
			t.Errorf("%q is read as %q, %v", content, got, err)
		}
	}
	for _, content := range []string{"", "\n", "\r\n"} {
		file := written(t, content)
		if _, err := Read(file); err == nil || err.Error() != file+" is empty" {
			t.Errorf("%q: %v", content, err)
		}
	}
}

func TestErrorsNameFlagsAndFilesAndNoSecret(t *testing.T) {
	ca := testkit.MakeCA(t)
	cert, other := ca.Issue(t, "a"), ca.Issue(t, "b")
	text := written(t, "s3cret")
	for want, err := range map[string]error{
		"--a: open " + text + "x":             Check("--a", text+"x", nil),
		"--b: " + text + " holds no cert":     CheckCAs("--b", text),
		"--c and --k need each other":         CheckPair("--c", cert.CertFile, "--k", ""),
		"--d and --k need each other":         CheckPair("--d", "", "--k", cert.KeyFile),
		"--e, --k: tls: private key does not": CheckPair("--e", cert.CertFile, "--k", other.KeyFile),
		"--f, --k: tls: failed to find any":   CheckPair("--f", cert.CertFile, "--k", text),
		"--k: open " + text + "x":             CheckPair("--g", cert.CertFile, "--k", text+"x"),
		"--h and --i are both given":          NotBoth("--h", "s3cret", "--i", "file"),
	} {
		if err == nil || !strings.HasPrefix(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("got %v, want %s…", err, want)
		}
	}
	for _, err := range []error{
		Check("--a", "", nil), Check("--a", text, nil), CheckCAs("--a", ca.File), CheckCAs("--a", ""),
		CheckPair("--a", cert.CertFile, "--b", cert.KeyFile), CheckPair("--a", "", "--b", ""),
		NotBoth("--a", "", "--b", "file"), NotBoth("--a", "s3cret", "--b", ""),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}
