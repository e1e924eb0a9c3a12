// Package console is what a router shows people: a page for a dealer's admins, the widget
// that a dealer puts on its web site, and a page that stands in for such a site.
//
// It is files and no more. Who uses them is a client as any other: it connects to /ws, and
// may do there what its token allows.
package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html/template"
	"net/http"
	"path"
	"time"

	sdk "github.com/telle-ai/event-router/sdk/js"
)

//go:embed static
var static embed.FS

// site is filled in with what a request says, which may be anything.
var site = template.Must(template.ParseFS(static, "static/site.html"))

// Nothing but our own files runs on our pages, and no text becomes markup or script, even
// if a line of ours would make it so. What connects to the router may: 'self' is wss, too.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// Routes returns what answers each pattern of a [http.ServeMux]. Auth is how clients prove
// who they are, which the pages ask for: "jwt", "none", or "" where nobody is let in.
func Routes(auth string) map[string]http.Handler {
	routes := map[string]http.Handler{
		"GET /{$}":          page(read("console.html")),
		"GET /widget":       demo(auth),
		"GET /widget.js":    forOthers(read("widget.js")),
		"GET /sdk/telle.js": forOthers(newAsset("telle.js", sdk.Module)),
		"GET /console.json": tells(auth),
	}
	for _, name := range parts() {
		routes["GET /console/"+name] = read(path.Join("console", name))
	}
	return routes
}

// parts lists the files of which the pages consist.
func parts() (names []string) {
	entries, err := static.ReadDir("static/console")
	if err != nil {
		panic(err) // it is in the program
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func read(name string) *asset {
	content, err := static.ReadFile(path.Join("static", name))
	if err != nil {
		panic(err) // it is in the program
	}
	return newAsset(name, content)
}

// contentTypes are said here, since a machine may have others.
var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".json": "application/json",
	".svg":  "image/svg+xml",
}

// An asset is a file that is served as it is.
type asset struct {
	content     []byte
	contentType string
	etag        string
}

func newAsset(name string, content []byte) *asset {
	sum := sha256.Sum256(content)
	return &asset{
		content:     content,
		contentType: contentTypes[path.Ext(name)],
		etag:        `"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`,
	}
}

// ServeHTTP lets browsers keep the file, but ask each time: then all files are of one
// version, also while routers are exchanged for newer ones.
func (a *asset) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Type", a.contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", a.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(a.content))
}

// page serves a page of ours.
func page(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// forOthers serves what pages of other origins load.
func forOthers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Cross-Origin-Resource-Policy", "cross-origin")
		next.ServeHTTP(w, r)
	})
}

// tells answers how clients prove who they are.
func tells(auth string) http.Handler {
	body, err := json.Marshal(map[string]string{"auth": auth})
	if err != nil {
		panic(err) // a string always can be
	}
	return newAsset("console.json", body)
}

// demo serves a page that stands in for a dealer's web site. Its query names the dealer
// and the chat.
func demo(auth string) http.Handler {
	return page(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dealer := r.FormValue("dealer")
		if dealer == "" {
			dealer = "d1"
		}
		var b bytes.Buffer
		if err := site.Execute(&b, map[string]string{"Auth": auth, "Dealer": dealer, "Group": r.FormValue("group")}); err != nil {
			http.Error(w, fmt.Sprintf("the page cannot be made: %v", err), http.StatusInternalServerError)
			return
		}
		newAsset("site.html", b.Bytes()).ServeHTTP(w, r)
	}))
}
