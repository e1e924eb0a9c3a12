package socket

import (
	"hash/maphash"
	"log/slog"
	"net/netip"
	"sync"

	"github.com/telle-ai/event-router/internal/auth"
)

// A door counts who is inside.
type door struct {
	// Static.
	limits  *Limits
	met     *counts
	log     *slog.Logger
	proxied bool // proxies are trusted: addresses are those of clients
	seed    maphash.Seed

	crowded sync.Once // the log says that an address may be that of a proxy

	mu         sync.Mutex
	inside     int
	addresses  map[netip.Addr]int
	identities map[uint64]int // by hash
}

func newDoor(cfg *Config, met *counts) *door {
	return &door{
		limits:     &cfg.Limits,
		met:        met,
		log:        cfg.Log,
		proxied:    len(cfg.TrustedProxies) > 0,
		seed:       maphash.MakeSeed(),
		addresses:  map[netip.Addr]int{},
		identities: map[uint64]int{},
	}
}

// A pass is what a socket has that is inside: it must leave. The zero pass is none.
type pass struct {
	door     *door // nil: none, or it has left
	address  netip.Addr
	identity uint64 // 0: not counted
}

// enter lets a socket in, or returns a [limitError].
func (d *door) enter(address netip.Addr) (pass, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case reached(d.inside, d.limits.Sockets):
		d.met[limitSockets].Add(1)
		return pass{}, errSockets
	case reached(d.addresses[address], d.limits.PerAddress):
		d.met[limitAddress].Add(1)
		d.crowded.Do(func() { d.warn(address) })
		return pass{}, errAddress
	}
	d.inside++
	if d.limits.PerAddress > 0 {
		d.addresses[address]++
	}
	return pass{door: d, address: address}, nil
}

// warn helps who runs many clients behind one address.
func (d *door) warn(address netip.Addr) {
	if !d.proxied {
		d.log.Warn("an address has as many sockets as it may: if it is a load balancer's, set --trusted-proxies", "address", address, "sockets", d.limits.PerAddress)
	}
}

func reached(n, most int) bool { return most > 0 && n >= most }

// show counts a socket as one of a client that its token names, or returns a [limitError]:
// there are too many, or it follows too much.
func (p *pass) show(id *auth.Identity) error {
	d := p.door
	if d == nil {
		return nil
	}
	if most := d.limits.joins(id.Role); most > 0 && len(id.FollowsFirst()) > most {
		d.met[limitJoins].Add(1)
		return errJoins
	}
	if d.limits.PerIdentity == 0 || id.Client == "" {
		return nil
	}
	hash := max(1, maphash.String(d.seed, id.Client))
	d.mu.Lock()
	defer d.mu.Unlock()
	if reached(d.identities[hash], d.limits.PerIdentity) {
		d.met[limitIdentity].Add(1)
		return errIdentity
	}
	d.identities[hash]++
	p.identity = hash
	return nil
}

// leave gives the pass back.
func (p *pass) leave() {
	d := p.door
	if d == nil {
		return
	}
	p.door = nil
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside--
	if d.limits.PerAddress > 0 {
		oneLess(d.addresses, p.address)
	}
	if p.identity != 0 {
		oneLess(d.identities, p.identity)
	}
}

func oneLess[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] == 0 {
		delete(counts, key)
	}
}
