package browser

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

// scenarioTime bounds a scenario. It is only ever used up by one that fails.
const scenarioTime = 90 * time.Second

// Each scenario is a story that people play in their windows.
func TestBrowser(t *testing.T) {
	d := startDriver(t, startSite(t))
	if *pictures != "" {
		d.play(t, "pictures")
		for _, path := range picturesIn(t, *pictures) {
			shrink(t, path)
		}
		return
	}
	for _, name := range []string{
		"a customer and two admins", "one of two has the chat", "what is taken away", "the next admin", "markup is text", "a long conversation",
		"the order of chats", "many chats", "by keyboard alone", "no accessibility fault", "with tokens", "on a dealer's own site", "a router is killed", "NATS is stopped", "what was missed is gone",
	} {
		t.Run(name, func(t *testing.T) { d.play(t, name) })
	}
}

// A driver is the process that has the browser. It is told which scenario to play, and
// asks for what has to happen outside of the browser meanwhile.
type driver struct {
	site   *site
	cmd    *exec.Cmd
	stdin  io.Writer
	said   chan said
	errors bytes.Buffer
}

// said is a line of the driver's: a question, or the end of a scenario.
type said struct {
	Ask   string            `json:"ask"`
	Args  []json.RawMessage `json:"args"`
	Done  string            `json:"done"`
	Error string            `json:"error"`
}

func startDriver(t *testing.T, s *site) *driver {
	t.Helper()
	d := &driver{site: s, cmd: exec.Command("node", "driver.mjs"), said: make(chan said)}
	d.cmd.Env = append(os.Environ(), "CHROMIUM="+chromium(t), "PICTURES="+*pictures, "TMPDIR="+t.TempDir())
	d.cmd.Stderr = &d.errors
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if d.stdin, err = d.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatalf("start node: %v: make deps installs it", err)
	}
	go d.read(stdout)
	t.Cleanup(func() {
		d.stdin.(io.Closer).Close() // then it closes the browser, and ends
		for range d.said {
		}
		_ = d.cmd.Wait()
		if t.Failed() && d.errors.Len() > 0 {
			t.Logf("driver: %s", &d.errors)
		}
	})
	return d
}

func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("no chromium in PATH: make deps installs it")
	return ""
}

func (d *driver) read(stdout io.Reader) {
	defer close(d.said)
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var line said
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			line = said{Done: "nonsense", Error: lines.Text()}
		}
		d.said <- line
	}
}

func (d *driver) tell(t *testing.T, what map[string]any) {
	t.Helper()
	b, err := json.Marshal(what)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.stdin.Write(append(b, '\n')); err != nil {
		t.Fatalf("driver: %v", err)
	}
}

// play has a scenario played, and does meanwhile what it asks for.
func (d *driver) play(t *testing.T, scenario string) {
	t.Helper()
	d.tell(t, map[string]any{"play": scenario, "routers": d.site.urls()})
	late := time.After(scenarioTime)
	for {
		select {
		case line, lives := <-d.said:
			switch {
			case !lives:
				t.Fatal("the driver has ended")
			case line.Done != "":
				if line.Error != "" {
					t.Fatal(line.Error)
				}
				return
			}
			d.tell(t, map[string]any{"answer": d.site.do(line.Ask, line.Args)})
		case <-late:
			_ = d.cmd.Process.Kill()
			t.Fatal("the scenario does not end")
		}
	}
}
