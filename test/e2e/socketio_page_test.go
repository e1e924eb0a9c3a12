package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// oldPage is the script of a page that was written for the old middleware. The test
// gives it io, url, and tell, by which it tells the test what it sees.
const oldPage = `
const socket = io(url);
socket.on("connect", () => {
	tell("connect");
	socket.emit("client_join", {type: "CLIENT_JOIN", dealerId: "d1", groupId: "g1", user: "customer", online: true});
});
socket.on("CHAT_MESSAGE", (msg) => {
	tell("CHAT_MESSAGE " + msg.message);
	socket.emit("customer_message", {type: "UPDATE_MSG", dealerId: "d1", groupId: "g1", user: "customer", muted: false, unread: 0,
		message: "thanks for " + msg.message});
});
socket.on("MUTE_STATE", (msg) => tell("MUTE_STATE " + msg.muted));
socket.on("CLOSE_CHAT", (msg) => tell("CLOSE_CHAT " + msg.adminId));
socket.on("SYS_MESSAGE", (msg) => tell("SYS_MESSAGE " + msg.message));
socket.on("connect_error", (err) => tell("connect_error " + err.message));
socket.on("error", (err) => tell("error " + err.message));
`

// An oldPageTest is what the test of an old page has, wherever the page runs.
type oldPageTest struct {
	t     *testing.T
	told  chan string
	admin *client
	say   func(payload string)
}

// chats plays a whole chat.
func (p *oldPageTest) chats() {
	p.t.Helper()
	p.wants("connect")
	p.admin.wants("client_join", `{"type":"CLIENT_JOIN","dealerId":"d1","groupId":"g1","user":"customer","online":true}`)
	for _, text := range []string{"hello", "hello again"} {
		p.say(said("d1", "g1", text))
		p.wants("CHAT_MESSAGE " + text)
		p.admin.wants("CHAT_MESSAGE", asChat(said("d1", "g1", text)))
		p.admin.wants("customer_message", customerSaid("d1", "g1", "thanks for "+text))
	}
	p.say(`{"type":"MUTE_BOT","dealerId":"d1","groupId":"g1","adminId":"a1","muted":true}`)
	p.wants("MUTE_STATE true")
	p.say(`{"type":"SYS_MSG","dealerId":"d1","adminId":"a1","message":"soon"}`)
	p.wants("SYS_MESSAGE soon")
	p.say(`{"type":"CLOSE_CHAT","dealerId":"d1","groupId":"g1","adminId":"a1","close":true}`)
	p.wants("CLOSE_CHAT a1")
}

func (p *oldPageTest) wants(what string) {
	p.t.Helper()
	select {
	case got := <-p.told:
		if got != what {
			p.t.Fatalf("the page tells %q, want %q", got, what)
		}
	case <-time.After(officialPatience):
		p.t.Fatalf("the page does not tell %q", what)
	}
}

// A page of the old kind works against `telle dev` with nothing changed but its URL,
// with every version of the client.
func TestAnOldPageWorksWithNothingChangedButItsURL(t *testing.T) {
	for _, k := range []kind{js48, js45, js40} {
		t.Run(k.name, func(t *testing.T) {
			d := startDev(t)
			p := &oldPageTest{t: t, told: make(chan string, 100), say: d.publish,
				admin: dial(t, d.routers[1], as("role", "admin", "dealerId", "d1"))}
			p.runInNode(k, "http://"+d.routers[0].public)
			p.chats()
		})
	}
}

// runInNode runs the page's script until the test ends.
func (p *oldPageTest) runInNode(k kind, url string) {
	p.t.Helper()
	script := fmt.Sprintf("const {io} = require(%q), url = %q, tell = console.log;%s", k.module, url, oldPage)
	cmd := exec.Command("node", "-e", script)
	cmd.Dir = "clients"
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			p.told <- lines.Text()
		}
	})
	p.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		reading.Wait()
		_ = cmd.Wait()
	})
}

// A page of the old kind in a real browser, served from another origin, joins a
// chat, is answered, and answers.
func TestAnOldPageInABrowserChatsAcrossOrigins(t *testing.T) {
	s := startStack(t)
	p := &oldPageTest{t: t, told: make(chan string, 100), say: func(payload string) { s.redis.Publish(channel, payload) },
		admin: dial(t, s.routers[1], as("role", "admin", "dealerId", "d1"))}
	site := httptest.NewServer(p.site("http://" + s.routers[0].public))
	defer site.Close()
	openInBrowser(t, site.URL)
	p.chats()
	if n := s.routers[0].metric("telle_sessions"); n != 1 {
		t.Errorf("the router has %v sessions, want 1", n)
	}
}

// site serves the page with the bundle for browsers, and hears what it tells.
func (p *oldPageTest) site(router string) http.Handler {
	bundle := filepath.Join("clients", "node_modules", js48.module, "dist", "socket.io.min.js")
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		// One thing is told after the other, so that they arrive in their order.
		fmt.Fprintf(w, `<!doctype html><title>chat</title><script src="/socket.io.min.js"></script><script>
let told = Promise.resolve();
const url = %q, tell = (what) => told = told.then(() => fetch("/told", {method: "POST", body: what}));
window.onerror = (message) => tell(message);
%s</script>`, router, oldPage)
	})
	mux.HandleFunc("/socket.io.min.js", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, bundle) })
	mux.HandleFunc("POST /told", func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		p.told <- string(b)
	})
	return mux
}
