package console

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// serve answers a request as a router with the console does.
func serve(auth, method, target string, header ...string) *http.Response {
	mux := http.NewServeMux()
	for pattern, handler := range Routes(auth) {
		mux.Handle(pattern, handler)
	}
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWhatIsServed(t *testing.T) {
	for _, c := range []struct {
		path, contentType string
		status            int
	}{
		{"/", "text/html; charset=utf-8", 200},
		{"/widget", "text/html; charset=utf-8", 200},
		{"/widget.js", "text/javascript; charset=utf-8", 200},
		{"/sdk/telle.js", "text/javascript; charset=utf-8", 200},
		{"/console.json", "application/json", 200},
		{"/console/console.js", "text/javascript; charset=utf-8", 200},
		{"/console/console.css", "text/css; charset=utf-8", 200},
		{"/console/icon.svg", "image/svg+xml", 200},
		{"/console.html", "", 404},
		{"/site.html", "", 404},
		{"/console/", "", 404},
		{"/sdk/", "", 404},
		{"/index.html", "", 404},
	} {
		resp := serve("none", "GET", c.path)
		if resp.StatusCode != c.status {
			t.Errorf("%s: %d, want %d", c.path, resp.StatusCode, c.status)
		} else if c.status == 200 && resp.Header.Get("Content-Type") != c.contentType {
			t.Errorf("%s is %s, want %s", c.path, resp.Header.Get("Content-Type"), c.contentType)
		}
		if c.status == 200 && resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s may be taken for something else", c.path)
		}
	}
}

// What a browser has, it is not sent again until it changes.
func TestAFileThatIsKnownIsNotSentAgain(t *testing.T) {
	for _, path := range []string{"/", "/widget", "/widget.js", "/sdk/telle.js", "/console/console.css"} {
		first := serve("none", "GET", path)
		etag := first.Header.Get("ETag")
		if etag == "" || first.Header.Get("Cache-Control") != "no-cache" {
			t.Fatalf("%s: ETag %q, Cache-Control %q", path, etag, first.Header.Get("Cache-Control"))
		}
		if again := serve("none", "GET", path, "If-None-Match", etag); again.StatusCode != http.StatusNotModified || body(t, again) != "" {
			t.Errorf("%s: %d for what is known", path, again.StatusCode)
		}
		if other := serve("none", "GET", path, "If-None-Match", `"other"`); other.StatusCode != http.StatusOK {
			t.Errorf("%s: %d for what is not known", path, other.StatusCode)
		}
	}
}

func TestOurPagesRunOurFilesOnly(t *testing.T) {
	inline := regexp.MustCompile(`(?i)<style|\sstyle=|\son[a-z]+=|javascript:|<script(?:[^>]*)>[^<]`)
	for _, path := range []string{"/", "/widget"} {
		for _, auth := range []string{"", "none", "jwt"} {
			resp := serve(auth, "GET", path)
			for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "require-trusted-types-for 'script'"} {
				if !strings.Contains(resp.Header.Get("Content-Security-Policy"), want) {
					t.Errorf("%s: policy without %s", path, want)
				}
			}
			page := body(t, resp)
			if found := inline.FindString(page); found != "" {
				t.Errorf("%s has %q, which its own policy forbids", path, found)
			}
			for _, m := range regexp.MustCompile(`(?:src|href)="(/[^"]*)"`).FindAllStringSubmatch(page, -1) {
				if linked := serve(auth, "GET", m[1]); linked.StatusCode != http.StatusOK {
					t.Errorf("%s names %s, which answers %d", path, m[1], linked.StatusCode)
				}
			}
		}
	}
}

// All modules that a module names are there.
func TestEveryImportIsServed(t *testing.T) {
	for _, name := range parts() {
		if !strings.HasSuffix(name, ".js") {
			continue
		}
		module, err := url.Parse("/console/" + name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^import .* from "(.*)";$`).FindAllStringSubmatch(body(t, serve("none", "GET", module.Path)), -1) {
			to, err := module.Parse(m[1])
			if err != nil {
				t.Fatal(err)
			}
			if resp := serve("none", "GET", to.Path); resp.StatusCode != http.StatusOK {
				t.Errorf("%s imports %s: %d", name, to.Path, resp.StatusCode)
			}
		}
	}
}

// Pages of other origins load the widget and the client, and nothing else.
func TestOthersMayLoadWhatIsForThem(t *testing.T) {
	for path, want := range map[string]string{"/widget.js": "*", "/sdk/telle.js": "*", "/": "", "/console.json": "", "/console/console.js": ""} {
		if got := serve("none", "GET", path, "Origin", "https://dealer.example").Header.Get("Access-Control-Allow-Origin"); got != want {
			t.Errorf("%s: Access-Control-Allow-Origin %q, want %q", path, got, want)
		}
	}
}

func TestPagesAreToldHowToProveWhoOneIs(t *testing.T) {
	for _, auth := range []string{"", "none", "jwt"} {
		if got, want := body(t, serve(auth, "GET", "/console.json")), `{"auth":"`+auth+`"}`; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		page := body(t, serve(auth, "GET", "/widget"))
		if got, want := strings.Contains(page, "data-token-function"), auth == "jwt"; got != want {
			t.Errorf("with --auth %q the widget asks for a token: %v", auth, got)
		}
	}
}

// What the address of the page says is text, wherever it stands.
func TestTheAddressOfTheSiteIsNoMarkup(t *testing.T) {
	const evil = `"><script>alert(1)</script><img src=x onerror='alert(2)'>`
	page := body(t, serve("jwt", "GET", "/widget?dealer="+url.QueryEscape(evil)+"&group="+url.QueryEscape(evil)))
	for _, mark := range []string{"<script>", "<img"} {
		if strings.Contains(page, mark) {
			t.Errorf("the page has %s", mark)
		}
	}
	if !strings.Contains(page, "onerror=&#39;alert(2)&#39;") {
		t.Error("the page does not say what it was asked for")
	}
}

func TestOnlyReadingIsServed(t *testing.T) {
	for _, method := range []string{"POST", "PUT", "DELETE"} {
		if resp := serve("none", method, "/"); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s /: %d", method, resp.StatusCode)
		}
	}
	if resp := serve("none", "HEAD", "/"); resp.StatusCode != http.StatusOK || body(t, resp) != "" {
		t.Errorf("HEAD /: %d", resp.StatusCode)
	}
}
