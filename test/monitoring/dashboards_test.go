package monitoring

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
)

// A dashboard is what we look at in one.
type dashboard struct {
	file string

	UID, Title    string
	SchemaVersion int
	Templating    struct{ List []variable }
	Annotations   struct{ List []target }
	Panels        []panel
}

type variable struct {
	Name, Type, Definition string
	Datasource             source
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               source
	GridPos                  struct{ H, W, X, Y int }
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []target
}

type target struct {
	Expr, LegendFormat string
	Datasource         source
}

type source struct{ UID string }

// chosen is the data source that one chooses in the dashboard.
const chosen = "${datasource}"

func dashboards(t *testing.T) (all []dashboard) {
	t.Helper()
	files, err := filepath.Glob(shipped + "grafana/dashboards/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %d dashboards, %v", len(files), err)
	}
	for _, file := range files {
		d := dashboard{file: file}
		if err := json.Unmarshal([]byte(read(t, file)), &d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, d)
	}
	return all
}

func TestDashboardsAreWellFormed(t *testing.T) {
	uids := map[string]bool{}
	for _, d := range dashboards(t) {
		d.isFormatted(t)
		d.hasVariables(t)
		d.hasItsOwnIDs(t)
		for _, p := range d.Panels {
			p.isComplete(t, d.file)
		}
		if d.Title == "" || d.UID+".json" != filepath.Base(d.file) || uids[d.UID] {
			t.Errorf("%s: has title %q and uid %q", d.file, d.Title, d.UID)
		}
		if d.SchemaVersion < 36 || d.SchemaVersion > 39 {
			t.Errorf("%s: schema %d is not one that Grafana 10 reads", d.file, d.SchemaVersion)
		}
		uids[d.UID] = true
	}
}

// isFormatted keeps changes small: what Grafana saves, or a person, is to be formatted in one way.
func (d dashboard) isFormatted(t *testing.T) {
	t.Helper()
	var formatted bytes.Buffer
	text := read(t, d.file)
	if err := json.Indent(&formatted, []byte(text), "", "  "); err != nil {
		t.Fatal(err)
	}
	if text != strings.TrimSpace(formatted.String())+"\n" {
		t.Errorf("%s is not formatted: jq --indent 2 . does it", d.file)
	}
}

func (d dashboard) hasVariables(t *testing.T) {
	t.Helper()
	types := map[string]string{}
	for _, v := range d.Templating.List {
		types[v.Name] = v.Type
		if v.Type == "query" && v.Datasource.UID != chosen {
			t.Errorf("%s: %s asks %q", d.file, v.Name, v.Datasource.UID)
		}
	}
	if types["datasource"] != "datasource" || types["instance"] != "query" {
		t.Errorf("%s: has the variables %v", d.file, types)
	}
}

func (d dashboard) hasItsOwnIDs(t *testing.T) {
	t.Helper()
	for i, p := range d.Panels {
		for _, other := range d.Panels[:i] {
			if p.ID == other.ID {
				t.Errorf("%s: %q and %q have the id %d", d.file, p.Title, other.Title, p.ID)
			}
			if p.overlaps(other) {
				t.Errorf("%s: %q lies on %q", d.file, p.Title, other.Title)
			}
		}
	}
}

func (p panel) overlaps(o panel) bool {
	a, b := p.GridPos, o.GridPos
	return a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H
}

func (p panel) isComplete(t *testing.T, file string) {
	t.Helper()
	g := p.GridPos
	if p.Title == "" || g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
		t.Errorf("%s: %q lies at %+v", file, p.Title, g)
	}
	if p.Type == "row" {
		return
	}
	if len(p.Targets) == 0 || p.FieldConfig.Defaults.Unit == "" || p.Datasource.UID != chosen || len(p.Description) < 10 {
		t.Errorf("%s: %q has %d queries, unit %q, data source %q, description %q", file, p.Title,
			len(p.Targets), p.FieldConfig.Defaults.Unit, p.Datasource.UID, p.Description)
	}
}
