package process

// measureStates exposes what the bridge does to keep the states of conversations.
func (b *Bridge) measureStates() {
	m, stats := b.node.metrics, b.node.broker.Stats
	m.Counter("telle_state_folded_total", "Events that this process has folded into the states of their conversations, and kept.", func() uint64 { return stats().StatesFolded })
	m.Counter("telle_state_puts_total", "Snapshots of states that this process has put into the bucket TELLE_STATE.", func() uint64 { return stats().StatesPut })
	m.Gauge("telle_state_lag_events", "Events that are in no snapshot yet, if this process is the one that keeps them, or was the last to try: readers take them from the stream.",
		func() float64 { return float64(stats().StatesLag) })
}

// states keeps the states of conversations, by one of all bridges.
func (b *Bridge) states() eventSource { return partFunc(b.node.broker.FoldStates) }
