package socket

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// forwardedFor is the header in which each proxy says from where it was asked, behind
// what stood there before.
const forwardedFor = "X-Forwarded-For"

// addressOf returns from where a client comes, as far as that can be believed: what a
// proxy that is trusted says, of the one before it, and so on. Of IPv6 it is the network:
// who has one address there has a /64.
func (s *Server) addressOf(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{} // not by TCP
	}
	return networkOf(lastUntrusted(peer.Addr().Unmap(), r.Header.Values(forwardedFor), s.cfg.TrustedProxies))
}

// lastUntrusted goes back from proxy to proxy. What somebody says who is not trusted
// does not count, and no more does what stands before something that is no address.
func lastUntrusted(peer netip.Addr, headers []string, trusted []netip.Prefix) netip.Addr {
	hops := strings.Split(strings.Join(headers, ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(peer) }) {
			return peer
		}
		before, ok := parseHop(strings.TrimSpace(hop))
		if !ok {
			return peer
		}
		peer = before
	}
	return peer
}

// parseHop reads an address, as some proxies write it with a port.
func parseHop(text string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return addr.Unmap().WithZone(""), true
	}
	withPort, err := netip.ParseAddrPort(text)
	return withPort.Addr().Unmap().WithZone(""), err == nil
}

func networkOf(addr netip.Addr) netip.Addr {
	if !addr.Is6() {
		return addr
	}
	const network = 64
	prefix, err := addr.WithZone("").Prefix(network)
	if err != nil {
		return addr
	}
	return prefix.Addr()
}
