package load

import (
	"bufio"
	"context"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// vitals are what a process of --metrics has of memory, and has used of the CPU.
type vitals struct {
	memory int64
	cpu    float64 // seconds, since it began
}

// vitals returns those of all processes of --metrics, in their order.
func (r *run) vitals(ctx context.Context) (all []vitals, err error) {
	for _, base := range r.Metrics {
		v, err := r.vitalsOf(ctx, base)
		if err != nil {
			return nil, fmt.Errorf("--metrics: %w", withoutURL(err))
		}
		all = append(all, v)
	}
	return all, nil
}

// The series that vitals are made of.
const (
	residentMemory = "process_resident_memory_bytes"
	cpuSeconds     = "process_cpu_seconds_total"
)

func (r *run) vitalsOf(ctx context.Context, base string) (v vitals, err error) {
	resp, err := r.get(ctx, endpoint(base, "/metrics", nil))
	if err != nil {
		return v, err
	}
	defer resp.Body.Close()
	found := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if name != residentMemory && name != cpuSeconds {
			continue
		}
		if found[name], err = strconv.ParseFloat(value, 64); err != nil {
			return v, err
		}
	}
	for _, name := range []string{residentMemory, cpuSeconds} {
		if _, ok := found[name]; !ok {
			return v, fmt.Errorf("there is no %s", name)
		}
	}
	return vitals{int64(found[residentMemory]), found[cpuSeconds]}, nil
}

// memory returns the resident memory of all processes of --metrics; 0 without them.
func (r *run) memory(ctx context.Context) (sum int64, err error) {
	all, err := r.vitals(ctx)
	return memoryOf(all), err
}

func memoryOf(all []vitals) (sum int64) {
	for _, v := range all {
		sum += v.memory
	}
	return sum
}

// A ProcessesReport is what the processes of --metrics have used of the CPU, together
// and each.
type ProcessesReport struct {
	ProcessReport
	Each []ProcessReport `json:"each"`
}

// A ProcessReport is about one process, or all. It says what a delivery or a connect
// took if there were any.
type ProcessReport struct {
	Address     string   `json:"address,omitempty"` // host:port of its internal listener
	CPU         float64  `json:"cpuSeconds"`
	PerDelivery *float64 `json:"cpuPerDeliveryUs,omitempty"`
	PerConnect  *float64 `json:"cpuPerConnectUs,omitempty"`
}

// spent returns what the processes have used since they were looked at.
func (r *run) spent(ctx context.Context, before []vitals) (*ProcessesReport, error) {
	after, err := r.vitals(ctx)
	if err != nil {
		return nil, err
	}
	p := &ProcessesReport{}
	for i, v := range after {
		used := v.cpu - before[i].cpu
		if used < 0 {
			used = v.cpu // it was started again, and has begun anew
		}
		p.CPU += used
		p.Each = append(p.Each, ProcessReport{Address: addressOf(r.Metrics[i]), CPU: used})
	}
	return p, nil
}

// addressOf returns what of a URL is surely no secret.
func addressOf(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return "" // cannot be: it was checked
	}
	return u.Host
}

// shown returns a URL without what may be secret.
func shown(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return "" // cannot be: it was checked
	}
	return u.Scheme + "://" + u.Host
}

// What processes use the CPU for.
func delivery(p *ProcessReport) **float64 { return &p.PerDelivery }
func connect(p *ProcessReport) **float64  { return &p.PerConnect }

// per says what each of n took.
func (p *ProcessesReport) per(n int64, what func(*ProcessReport) **float64) *ProcessesReport {
	if n == 0 {
		return p
	}
	divide := func(one *ProcessReport) {
		us := one.CPU * 1e6 / float64(n)
		*what(one) = &us
	}
	divide(&p.ProcessReport)
	for i := range p.Each {
		divide(&p.Each[i])
	}
	return p
}
