package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"testing"
	"time"
)

// page is a dealer's web site with a chat: it talks to a router of another origin,
// and tells the test what it sees.
const page = `<!doctype html><title>chat</title><script>
const tell = (what) => fetch("/told", {method: "POST", body: what});
const socket = new WebSocket("ws://%s/ws?role=customer&dealerId=d1");
socket.onclose = (e) => tell("closed " + e.code);
socket.onmessage = (e) => {
	const frame = JSON.parse(e.data);
	if (frame.event === "ready") {
		socket.send(JSON.stringify({event: "client_join", id: 1,
			data: {type: "CLIENT_JOIN", dealerId: "d1", groupId: "g1", user: "customer"}}));
	} else if (frame.event === "CHAT_MESSAGE") {
		socket.send(JSON.stringify({event: "customer_message", id: "m",
			data: {type: "UPDATE_MSG", dealerId: "d1", groupId: "g1", user: "customer", message: "thanks for " + frame.data.message}}));
	}
	tell(frame.event + " " + (frame.data?.message ?? frame.id ?? ""));
};
</script>`

// A page in a real browser joins a chat, is answered, and answers.
func TestAPageInABrowserChats(t *testing.T) {
	s := startStack(t)
	told := make(chan string, 100)
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/told" {
			fmt.Fprintf(w, page, s.routers[0].public)
			return
		}
		b, _ := io.ReadAll(r.Body)
		told <- string(b)
	}))
	defer site.Close()
	admin := dial(t, s.routers[1], as("role", "admin", "dealerId", "d1"))
	openInBrowser(t, site.URL)
	want := func(wants ...string) {
		t.Helper()
		seen := map[string]bool{}
		for range wants { // frames of one moment are told in any order
			select {
			case what := <-told:
				seen[what] = true
			case <-time.After(30 * time.Second):
				t.Fatalf("the page told %v, not all of %q", seen, wants)
			}
		}
		for _, w := range wants {
			if !seen[w] {
				t.Fatalf("the page told %v, want %q", seen, wants)
			}
		}
	}
	want("ready ", "ack 1")
	admin.wants("client_join", `{"type":"CLIENT_JOIN","dealerId":"d1","groupId":"g1","user":"customer","online":true}`)
	s.redis.Publish(channel, said("d1", "g1", "hello"))
	want("CHAT_MESSAGE hello", "ack m")
	admin.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "hello")))
	admin.wants("customer_message", `{"type":"UPDATE_MSG","dealerId":"d1","groupId":"g1","user":"customer","message":"thanks for hello","muted":false,"unread":0}`)
}

// openInBrowser shows a page in a headless Chromium until the test ends.
func openInBrowser(t *testing.T, url string) {
	t.Helper()
	var browser string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			browser = path
			break
		}
	}
	if browser == "" {
		t.Fatal("no chromium in PATH: make deps installs it")
	}
	profile, temp := t.TempDir(), t.TempDir()
	cmd := exec.Command(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--remote-debugging-port=0", "--user-data-dir="+profile, url)
	cmd.Env = append(os.Environ(), "TMPDIR="+temp) // it leaves things there when it is killed
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.WaitDelay = 5 * time.Second // its children may hold the output open
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", browser, output.String())
		}
	})
}
