package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Report is what a run has measured and found. Its JSON is documented in
// docs/load.md: fields are added, never renamed.
type Report struct {
	Scenario   string `json:"scenario"`
	Protocol   string `json:"protocol"`
	Run        string `json:"run"`
	Dealer     string `json:"dealer"`
	Sockets    int    `json:"sockets"`
	Groups     int    `json:"groups"`
	PublishBy  string `json:"publishBy,omitempty"` // the scheme of --publish
	EndedEarly bool   `json:"endedEarly"`
	Clean      bool   `json:"clean"`
	Problem    string `json:"problem"`

	Seconds    float64          `json:"seconds"`        // that were measured
	Asked      float64          `json:"askedPerSecond"` // by --rate; 0: as fast as goes
	Published  Rate             `json:"published"`
	Deliveries Rate             `json:"deliveries"`
	Latency    *Percentiles     `json:"latencyMs,omitempty"`
	Connect    *ConnectReport   `json:"connect,omitempty"`
	CPU        CPUReport        `json:"cpu"`
	Memory     *MemoryReport    `json:"memory,omitempty"`
	Processes  *ProcessesReport `json:"processes,omitempty"`
	Resume     *ResumeReport    `json:"resume,omitempty"`
	Slow       *SlowReport      `json:"slow,omitempty"`
	Lost       int64            `json:"lost"`
	Doubled    int64            `json:"doubled"`
	OutOfOrder int64            `json:"outOfOrder"`
	Foreign    int64            `json:"foreign"`
	Degraded   int64            `json:"degraded"`
	Breaks     map[string]int   `json:"disconnects"` // unexpected ones, by close code or "broken"

	failedAtStart bool // nothing was measured
}

// A Rate is how many, and how many per second.
type Rate struct {
	Count     int64   `json:"count"`
	PerSecond float64 `json:"perSecond"`
}

// Percentiles are milliseconds.
type Percentiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

// A ConnectReport is about the first connecting, until ready.
type ConnectReport struct {
	Sockets   int          `json:"sockets"`
	Seconds   float64      `json:"seconds"`
	PerSecond float64      `json:"perSecond"`
	Latency   *Percentiles `json:"latencyMs,omitempty"`
}

// A CPUReport is what the tool itself has used while it measured.
type CPUReport struct {
	Seconds float64 `json:"seconds"`
	Share   float64 `json:"share"`   // of the time; more than 1 on several cores
	Cores   int     `json:"cores"`   // that it may use
	Machine float64 `json:"machine"` // share of all cores that was used by anybody; 0: not known
	Limit   bool    `json:"limit"`   // it was probably what limited the figures
}

// A MemoryReport is the resident memory of the processes of --metrics.
type MemoryReport struct {
	Before    int64   `json:"beforeBytes"` // before the sockets were connected
	After     int64   `json:"afterBytes"`
	PerSocket float64 `json:"perSocketBytes"`
}

// A ResumeReport is about all sockets coming back.
type ResumeReport struct {
	Seconds       float64      `json:"seconds"` // until the last had what it had missed
	Missed        int          `json:"missed"`  // events
	Back          int64        `json:"back"`    // sockets
	CaughtUp      int          `json:"caughtUp"`
	Unrecovered   int64        `json:"unrecovered"` // were told that something may be missing
	Retries       int64        `json:"retries"`
	Ready         *Percentiles `json:"readyMs,omitempty"`
	CaughtUpAfter *Percentiles `json:"caughtUpMs,omitempty"`
	NATSMessages  *int64       `json:"natsMessages,omitempty"` // that NATS was sent meanwhile
}

// A SlowReport is about the socket that reads nothing, and its neighbours, whose
// latency meanwhile is that of the report.
type SlowReport struct {
	Before       *Percentiles `json:"beforeMs,omitempty"` // latency while all read
	Behind       uint64       `json:"behind"`             // events that it had not read at the end
	Outcome      string       `json:"outcome"`            // caught up, or closed <code>
	Seconds      float64      `json:"seconds"`            // until it had all, if it got it
	Lost         uint64       `json:"lost"`
	MemoryGrowth *int64       `json:"memoryGrowthBytes,omitempty"`
}

func newReport(r *run) *Report {
	report := &Report{
		Scenario: r.Scenario, Protocol: r.Protocol, Run: r.id, Dealer: r.Dealer, Sockets: r.Sockets, Groups: r.Groups,
	}
	if u, err := url.Parse(r.Publish); err == nil && r.publishes() {
		report.PublishBy, report.Asked = u.Scheme, r.Rate
	}
	return report
}

// percentilesOf returns nil if nothing was measured.
func percentilesOf(h *hdrhistogram.Histogram) *Percentiles {
	if h.TotalCount() == 0 {
		return nil
	}
	ms := func(percentile float64) float64 { return float64(h.ValueAtPercentile(percentile)) / 1000 }
	return &Percentiles{ms(50), ms(90), ms(99), ms(99.9), float64(h.Max()) / 1000}
}

// reportConnected reports what the processes have had to do for the sockets, where it
// is about connecting also of the CPU.
func (r *run) reportConnected(ctx context.Context, before []vitals) error {
	if len(r.Metrics) == 0 {
		return nil
	}
	if !r.publishes() {
		spent, err := r.spent(ctx, before)
		if err != nil {
			return err
		}
		r.report.Processes = spent.per(int64(r.report.Connect.Sockets), connect)
	}
	return r.reportMemory(ctx, memoryOf(before))
}

// reportDelivered reports what the processes have used of the CPU for what was
// measured. If one does not answer, that is not reported: what has become of its sockets
// is what the run has to tell.
func (r *run) reportDelivered(stop context.Context) {
	if len(r.atStart) == 0 {
		return
	}
	if spent, err := r.spent(stop, r.atStart); err == nil {
		r.report.Processes = spent.per(r.report.Deliveries.Count, delivery)
	}
}

// reportMemory reports the growth since before the sockets were connected.
func (r *run) reportMemory(ctx context.Context, before int64) error {
	after, err := r.memory(ctx)
	if err == nil && len(r.Metrics) > 0 {
		r.report.Memory = &MemoryReport{before, after, float64(after-before) / float64(r.Sockets)}
	}
	return err
}

// fill fills in what was found, by sockets that have waited for stragglers or not.
func (p *Report) fill(r *run, waited bool) {
	for _, s := range r.sockets {
		p.Lost += int64(s.lost(waited))
	}
	p.Doubled, p.OutOfOrder, p.Foreign = r.found(doubled), r.found(outOfOrder), r.found(foreign)
	p.Degraded = r.degraded.Load()
	if p.Resume != nil {
		p.Resume.Unrecovered = r.unrecovered.Load()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p.Breaks = maps.Clone(r.breaks)
}

// verdict returns an error that says what was not as promised, if anything.
func (p *Report) verdict() error {
	var found []string
	tell := func(n int64, what string) {
		if n > 0 {
			found = append(found, fmt.Sprintf("%d %s", n, what))
		}
	}
	tell(p.Lost, "lost")
	tell(p.Doubled, "doubled")
	tell(p.OutOfOrder, "out of order")
	tell(p.Foreign, "foreign")
	if p.Resume != nil {
		tell(p.Resume.Unrecovered, "not recovered")
	}
	for _, reason := range slices.Sorted(maps.Keys(p.Breaks)) {
		tell(int64(p.Breaks[reason]), "disconnected ("+reason+")")
	}
	if len(found) == 0 {
		return nil
	}
	return errors.New(strings.Join(found, ", "))
}

// WriteJSON writes the report as one object.
func (p *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(p)
}
