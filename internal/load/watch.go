package load

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// messagesOfNATS returns how many messages a NATS server has been sent; 0 without
// --nats-monitor.
func (r *run) messagesOfNATS(ctx context.Context) (int64, error) {
	if r.NATSMonitor == "" {
		return 0, nil
	}
	resp, err := r.get(ctx, endpoint(r.NATSMonitor, "/varz", nil))
	if err != nil {
		return 0, fmt.Errorf("--nats-monitor: %w", withoutURL(err))
	}
	defer resp.Body.Close()
	var said struct {
		In *int64 `json:"in_msgs"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&said); err != nil || said.In == nil {
		return 0, fmt.Errorf("--nats-monitor: this is not the monitoring of a NATS server")
	}
	return *said.In, nil
}

func (r *run) get(ctx context.Context, url string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := r.http.Do(req)
	if err == nil && resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("HTTP status %d", resp.StatusCode)
	}
	return resp, err
}

// use is what had been used of the CPU at some time.
type use struct {
	at         time.Time
	cpu        time.Duration
	busy, ever float64 // of the machine
}

func startUse() use {
	u := use{at: time.Now(), cpu: cpuTime()}
	u.busy, u.ever = machineTime()
	return u
}

// cpuTime returns what the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for the process itself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// machineTime returns how long all cores have been busy, and have been, in whatever
// unit; 0 where the system does not tell in Linux's way.
func machineTime() (busy, ever float64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, field := range strings.Fields(line) {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil || i > 8 { // guests count as user already
			continue
		}
		ever += n
		if i != 4 && i != 5 { // idle, and waiting for a disk
			busy += n
		}
	}
	return busy, ever
}

// nearlyAll is the share of what there is from which on it is the limit.
const nearlyAll = 0.85

// until reports what was used since.
func (u use) until() CPUReport {
	now := startUse()
	c := CPUReport{Seconds: (now.cpu - u.cpu).Seconds(), Cores: runtime.GOMAXPROCS(0)}
	c.Share = per(c.Seconds, now.at.Sub(u.at))
	if now.ever > u.ever {
		c.Machine = (now.busy - u.busy) / (now.ever - u.ever)
	}
	// The machine may be full with others; where the tool hardly counts, they are the limit.
	full := c.Machine > nearlyAll && c.Share > nearlyAll/2
	c.Limit = full || c.Share > nearlyAll*float64(c.Cores)
	return c
}
