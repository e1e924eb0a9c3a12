package e2e

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/telle-ai/event-router/internal/testkit"
)

// dev is a running `telle dev`.
type dev struct {
	*program
	nats, redis string // URLs
	bridge      *program
	routers     [2]*program
}

// startDev starts `telle dev` on free ports and returns when it greets.
func startDev(t *testing.T, args ...string) *dev {
	t.Helper()
	free := []string{"dev", "--data", filepath.Join(t.TempDir(), "data")}
	for _, port := range []string{"nats-port", "monitor-port", "redis-port", "bridge-port", "bridge-internal",
		"router1-port", "router1-internal", "router2-port", "router2-internal"} {
		free = append(free, "--"+port+"=0")
	}
	p := start(t, nil, "telle", append(free, args...)...)
	for line := range p.lines {
		if strings.HasPrefix(line, "Ctrl-C") {
			return readGreeting(p)
		}
	}
	t.Fatalf("telle dev ended before it greeted: %s", p.text())
	return nil
}

func readGreeting(p *program) *dev {
	text := p.text()
	find := func(pattern string) string {
		if m := regexp.MustCompile(pattern).FindStringSubmatch(text); m != nil {
			return m[1]
		}
		return ""
	}
	d := &dev{program: p, nats: find(`NATS +(nats://\S+)`), redis: find(`Redis +(\S+)`)}
	d.bridge = &program{t: p.t, name: "bridge", public: find(`bridge +http://([^/]+)/v1/events`)}
	for i := range d.routers {
		d.routers[i] = &program{t: p.t, name: "router", public: find(fmt.Sprintf(`router %d +ws://([^/]+)/ws`, i+1))}
	}
	return d
}

// The first look is a page in a browser.
func TestDevServesTheConsoleWhereItSays(t *testing.T) {
	d := startDev(t)
	for _, r := range d.routers {
		for path, want := range map[string]string{"/": "<title>Telle console</title>", "/widget?group=g1": `data-group="g1"`} {
			if status, page := get(t, "http://"+r.public+path); status != http.StatusOK || !strings.Contains(page, want) {
				t.Errorf("%s%s answers %d, without %s", r.public, path, status, want)
			}
		}
	}
	port := func(n int) string {
		_, port, _ := net.SplitHostPort(d.routers[n].public)
		return port
	}
	for _, want := range []string{"http://localhost:" + port(0) + "/#dealer=d1&admin=a1 ",
		"http://localhost:" + port(1) + "/#dealer=d1&admin=a2 ", "http://localhost:" + port(0) + "/widget"} {
		if !strings.Contains(d.text(), want) {
			t.Errorf("the greeting has no %s:\n%s", want, d.text())
		}
	}
}

// Everybody is believed there, but not whatever page a developer happens to look at.
func TestDevLetsOnlyPagesOfThisMachineIn(t *testing.T) {
	for flags, more := range map[string]bool{"": false, "--allowed-origins=shop.example,localhost:*": true} {
		d := startDev(t, strings.Fields(flags)...)
		for _, to := range []*program{d.bridge, d.routers[0], d.routers[1]} {
			for origin, allowed := range map[string]bool{
				"":                            true, // no browser
				"http://" + to.public:         true,
				"http://localhost:3000":       true,
				"http://localhost":            !more,
				"http://127.0.0.1":            !more,
				"https://shop.example":        more,
				"https://evil.example":        false,
				"https://localhost.evil.test": false,
				"null":                        false, // a file
			} {
				checkOrigin(t, to, origin, allowed)
				if to == d.bridge {
					checkPostOrigin(t, to, origin, allowed)
				}
			}
		}
	}
}

// publish sends a payload through the Redis in the process.
func (d *dev) publish(payload string) {
	d.t.Helper()
	c, err := testkit.DialRedis(strings.TrimPrefix(d.redis, "redis://"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Do([]string{"PUBLISH", channel, payload}); err != nil {
		d.t.Fatal(err)
	}
}

// The first look: an event from Redis arrives on both routers, for customer and
// admin, and telle tail prints it.
func TestDevCarriesAnEventFromRedisToEverySocket(t *testing.T) {
	d := startDev(t)
	tail := start(t, nil, "telle", "tail", "d1", "--nats-url", d.nats)
	var clients []*client
	for _, r := range d.routers {
		clients = append(clients,
			dial(t, r, as("role", "customer", "dealerId", "d1", "groupId", "g1")),
			dial(t, r, as("role", "admin", "dealerId", "d1", "adminId", "a1")))
	}
	mute := `{"type":"MUTE_BOT","dealerId":"d1","groupId":"g1","adminId":"a1","muted":true}`
	// tail may not listen yet: it sees the last one at the latest.
	seen := false
	for n := 1; !seen; n++ {
		if n > 200 {
			t.Fatalf("telle tail prints nothing: %s", tail.text())
		}
		d.publish(mute)
		for _, c := range clients {
			f := c.wants("MUTE_STATE", strings.Replace(mute, "MUTE_BOT", "MUTE_STATUS", 1))
			if f.Seq != uint64(n) {
				t.Errorf("%s: event %d has sequence %d", c.name, n, f.Seq)
			}
		}
		select {
		case line, running := <-tail.lines:
			if !running {
				t.Fatalf("telle tail has ended: %s", tail.text())
			}
			seen = strings.HasSuffix(line, " chat.d1.g1 "+mute)
		case <-time.After(100 * time.Millisecond):
		}
	}
	tail.signal(syscall.SIGINT)
	if code := tail.exitCode(); code != 0 {
		t.Errorf("telle tail ended with %d", code)
	}
	d.clients = clients
	d.signal(syscall.SIGINT)
	for _, c := range clients {
		c.discard()
	}
	if code := d.exitCode(); code != 0 {
		t.Errorf("telle dev ended with %d after Ctrl-C", code)
	}
}

// What telle dev has stored is there again after a restart.
func TestDevKeepsItsData(t *testing.T) {
	data := filepath.Join(t.TempDir(), "kept")
	for n := 1; n <= 2; n++ {
		d := startDev(t, "--data", data)
		customer := dial(t, d.routers[0], as("role", "customer", "dealerId", "d1", "groupId", "g1"))
		d.publish(said("d1", "g1", "hello"))
		if f := customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "hello"))); f.Seq != uint64(n) {
			t.Errorf("sequence %d in run %d", f.Seq, n)
		}
		customer.discard()
		d.signal(os.Interrupt)
		if code := d.exitCode(); code != 0 {
			t.Errorf("telle dev ended with %d", code)
		}
	}
}

// Somebody else's Redis is used when it is named.
func TestDevUsesAnotherRedis(t *testing.T) {
	redis := testkit.StartRedis(t)
	d := startDev(t, "--redis-url", redis.URL)
	customer := dial(t, d.routers[1], as("role", "customer", "dealerId", "d1", "groupId", "g1"))
	redis.Publish(channel, said("d1", "g1", "hello"))
	customer.wants("CHAT_MESSAGE", asChat(said("d1", "g1", "hello")))
}

// A port that is taken is named, with the flag that moves it.
func TestDevNamesAPortThatIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for _, flag := range []string{"--nats-port", "--monitor-port", "--redis-port", "--bridge-port", "--router1-internal", "--router2-port"} {
		args := []string{"dev", "--data", t.TempDir()}
		for _, f := range []string{"--nats-port", "--monitor-port", "--redis-port", "--bridge-port", "--bridge-internal",
			"--router1-port", "--router1-internal", "--router2-port", "--router2-internal"} {
			if f == flag {
				args = append(args, f+"="+port)
			} else {
				args = append(args, f+"=0")
			}
		}
		code, output := runToEnd(t, nil, "telle", args...)
		if code != 1 || !strings.Contains(output, flag) || !strings.Contains(output, port) {
			t.Errorf("%s taken: exit code %d: %s", flag, code, output)
		}
	}
}

// The demo's bot hears the customer by way of the bridge, and both hear its answer by way of the routers.
func TestTheDemoTalks(t *testing.T) {
	s := startStack(t)
	demo := start(t, nil, "telle", "demo", "--url", "ws://"+s.routers[0].public, "--redis-url", s.redis.URL, "--every", "50ms")
	for _, heard := range []string{
		`bot      hears {"dealerId":"demo"`,
		`customer hears {"event":"CHAT_MESSAGE"`,
		`admin    hears {"event":"customer_message"`,
		`admin    hears {"event":"CHAT_MESSAGE"`,
	} {
		testkit.Eventually(t, heard, func() bool { return strings.Contains(demo.text(), heard) })
	}
	demo.terminate()
}

func TestTheDemoNamesWhatIsWrong(t *testing.T) {
	for flag, value := range map[string]string{
		"--url": "nowhere", "--redis-url": "ftp://x", "--every": "0s", "--jwt-secret-file": "missing", "--redis-password-file": "missing",
	} {
		if code, out := runToEnd(t, nil, "telle", "demo", flag, value); code != 1 || !strings.Contains(out, flag) {
			t.Errorf("%s %s: exit code %d, %s", flag, value, code, out)
		}
	}
}
