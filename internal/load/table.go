package load

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteTable writes the report for people: nothing, if the run failed at its start.
func (p *Report) WriteTable(w io.Writer) error {
	if p.failedAtStart {
		return nil
	}
	fmt.Fprintf(w, "%s over %s: %s in %s of dealer %s", p.Scenario, p.Protocol,
		some(p.Sockets, "socket"), some(p.Groups, "group"), p.Dealer)
	if p.PublishBy != "" {
		fmt.Fprintf(w, ", published by %s", p.PublishBy)
	}
	if p.EndedEarly {
		fmt.Fprint(w, "; ended early")
	}
	fmt.Fprint(w, "\n\n")
	p.writePercentiles(w)
	fmt.Fprintln(w)
	p.writeFigures(w)
	fmt.Fprintf(w, "\nlost %d, doubled %d, out of order %d, foreign %d, disconnected %d\n",
		p.Lost, p.Doubled, p.OutOfOrder, p.Foreign, p.disconnects())
	p.writeWarning(w)
	return nil
}

// writeWarning says when the figures are not those of the router.
func (p *Report) writeWarning(w io.Writer) {
	switch {
	case p.CPU.Limit:
		fmt.Fprintln(w, "The generator was the limit: there was hardly any more CPU that it could have got.")
	case p.CPU.Machine > nearlyAll:
		fmt.Fprintln(w, "This machine was full, with others than this tool.")
	}
}

// some counts things.
func some(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func (p *Report) disconnects() (n int) {
	for _, times := range p.Breaks {
		n += times
	}
	return n
}

// writePercentiles writes all that was measured in milliseconds.
func (p *Report) writePercentiles(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "milliseconds\tp50\tp90\tp99\tp99.9\tmax\t")
	row := func(what string, ms *Percentiles) {
		if ms != nil {
			fmt.Fprintf(t, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", what, ms.P50, ms.P90, ms.P99, ms.P999, ms.Max)
		}
	}
	if p.Slow != nil {
		row("while all read", p.Slow.Before)
	}
	row("published to delivered", p.Latency)
	if p.Connect != nil {
		row("connected until ready", p.Connect.Latency)
	}
	if p.Resume != nil {
		row("back until ready", p.Resume.Ready)
		row("back until caught up", p.Resume.CaughtUpAfter)
	}
	_ = t.Flush() // whoever reads it has gone
}

// nearlyAsked is how much of --rate is as good as all.
const nearlyAsked = 0.95

// writeFigures writes all else.
func (p *Report) writeFigures(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if c := p.Connect; c != nil {
		fmt.Fprintf(t, "connected\t%d sockets in %.2f s\t%.0f/s\n", c.Sockets, c.Seconds, c.PerSecond)
	}
	if p.Published.Count > 0 {
		fmt.Fprintf(t, "published\t%d in %.2f s\t%.0f/s", p.Published.Count, p.Seconds, p.Published.PerSecond)
		if p.Published.PerSecond < nearlyAsked*p.Asked {
			fmt.Fprintf(t, ", not the %.0f/s that were asked for", p.Asked)
		}
		fmt.Fprintln(t)
	}
	if p.Deliveries.Count > 0 {
		fmt.Fprintf(t, "delivered\t%d\t", p.Deliveries.Count)
		if p.Deliveries.PerSecond > 0 {
			fmt.Fprintf(t, "%.0f/s", p.Deliveries.PerSecond)
		}
		fmt.Fprintln(t)
	}
	p.writeResume(t)
	p.writeSlow(t)
	if m := p.Memory; m != nil {
		fmt.Fprintf(t, "memory of the router\t%.1f MiB, %.1f MiB without sockets\t%.1f KiB per socket\n",
			mebi(m.After), mebi(m.Before), m.PerSocket/1024)
	}
	p.writeProcesses(t)
	fmt.Fprintf(t, "CPU of this tool\t%.2f s, %.0f %% of a core, of %d\t", p.CPU.Seconds, 100*p.CPU.Share, p.CPU.Cores)
	if p.CPU.Machine > 0 {
		fmt.Fprintf(t, "machine %.0f %% busy", 100*p.CPU.Machine)
	}
	fmt.Fprintln(t)
	_ = t.Flush()
}

// writeProcesses writes what the processes have used of the CPU, where they are several
// also each.
func (p *Report) writeProcesses(w io.Writer) {
	if p.Processes == nil {
		return
	}
	row := func(what string, one ProcessReport) {
		fmt.Fprintf(w, "%s\t%.2f s\t", what, one.CPU)
		if one.PerDelivery != nil {
			fmt.Fprintf(w, "%.2f µs per delivery", *one.PerDelivery)
		}
		if one.PerConnect != nil {
			fmt.Fprintf(w, "%.0f µs per connect", *one.PerConnect)
		}
		fmt.Fprintln(w)
	}
	row("CPU of the router", p.Processes.ProcessReport)
	if len(p.Processes.Each) < 2 {
		return
	}
	for _, one := range p.Processes.Each {
		row("  "+one.Address, one)
	}
}

func mebi(n int64) float64 { return float64(n) / (1 << 20) }

func (p *Report) writeResume(w io.Writer) {
	r := p.Resume
	if r == nil {
		return
	}
	fmt.Fprintf(w, "all live again\tafter %.2f s\t%d of %d caught up, %d events missed, %d retries, %d not recovered\n",
		r.Seconds, r.CaughtUp, p.Sockets, r.Missed, r.Retries, r.Unrecovered)
	if r.NATSMessages != nil {
		fmt.Fprintf(w, "NATS was sent\t%d messages meanwhile\t%.3f per socket\n",
			*r.NATSMessages, float64(*r.NATSMessages)/float64(p.Sockets))
	}
}

func (p *Report) writeSlow(w io.Writer) {
	s := p.Slow
	if s == nil || s.Outcome == "" {
		return
	}
	fmt.Fprintf(w, "slow socket\t%d events behind, then %s\tafter %.2f s, %d lost\n", s.Behind, s.Outcome, s.Seconds, s.Lost)
	if s.MemoryGrowth != nil {
		fmt.Fprintf(w, "memory of the router\t%+.1f MiB while it did not read\t\n", mebi(*s.MemoryGrowth))
	}
}
