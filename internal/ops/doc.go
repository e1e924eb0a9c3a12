// Package ops is what a process shows to those who run it: its log, whether it is healthy and ready, and its metrics.
//
// It knows nothing of the other rooms. They keep plain counters and cheap functions that read their state; whoever
// assembles a process hands those functions to Health and Metrics.
package ops
