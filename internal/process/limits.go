package process

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/telle-ai/event-router/internal/socket"
	"github.com/telle-ai/event-router/pkg/events"
)

// LimitFlags bound what clients may take of one process.
type LimitFlags struct {
	MaxSockets            int      `default:"100000" help:"Sockets in all. 0: no limit, as for the others up to --max-joins."`
	MaxSocketsPerAddress  int      `default:"20000" help:"Sockets of one address, or of one /64 of IPv6. Behind a load balancer it needs --trusted-proxies: set it low then."`
	MaxSocketsPerIdentity int      `default:"1000" help:"Sockets of one client: of the same sub in its token or, without sub, of the same groupId or adminId. Who has none of these is not counted."`
	MaxWaiting            int      `default:"10000" help:"Connections and clients that have not said yet who they are. Past it, one goes: of the address with most of them, the one that has waited longest."`
	MaxFrameRate          float64  `default:"20" help:"Frames of one socket per second; of a service 100 times as many. 0: as many as come."`
	MaxFrameBurst         int      `default:"100" help:"How many may come at once; of a service 100 times as many. As many again wait for their turn, as many again are refused, then the socket is closed."`
	MaxJoins              int      `default:"500" help:"Conversations that one session follows; of a service 100 times as many."`
	MaxJSONDepth          int      `name:"max-json-depth" default:"64" help:"How deeply a message of a client, of HTTP or of Redis may be nested: 1 to 10000."`
	MaxHeaderBytes        int      `default:"16384" help:"The longest header of a request on the public address, with its first line, in bytes: 1024 to 1048576."`
	TrustedProxies        []string `placeholder:"ADDRESS,…" help:"Addresses or networks of proxies whose X-Forwarded-For is believed, separated by commas."`
}

// mostLimit is more than anybody needs, and can be multiplied.
const mostLimit = 1_000_000_000

func (f *LimitFlags) check() error {
	errs := []error{
		between("--max-json-depth", f.MaxJSONDepth, 1, events.MostDepth),
		between("--max-header-bytes", f.MaxHeaderBytes, 1<<10, 1<<20),
	}
	for _, limit := range []struct {
		flag string
		n    float64
	}{
		{"max-sockets", float64(f.MaxSockets)},
		{"max-sockets-per-address", float64(f.MaxSocketsPerAddress)},
		{"max-sockets-per-identity", float64(f.MaxSocketsPerIdentity)},
		{"max-waiting", float64(f.MaxWaiting)},
		{"max-frame-rate", f.MaxFrameRate},
		{"max-frame-burst", float64(f.MaxFrameBurst)},
		{"max-joins", float64(f.MaxJoins)},
	} {
		if !(limit.n >= 0 && limit.n <= mostLimit) { // nor NaN
			errs = append(errs, fmt.Errorf("--%s must be 0 to %d", limit.flag, mostLimit))
		}
	}
	_, err := f.proxies()
	return errors.Join(append(errs, err)...)
}

func between(flag string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%s must be %d to %d", flag, least, most)
	}
	return nil
}

func (f *LimitFlags) limits() socket.Limits {
	return socket.Limits{
		Sockets:     f.MaxSockets,
		PerAddress:  f.MaxSocketsPerAddress,
		PerIdentity: f.MaxSocketsPerIdentity,
		Waiting:     f.MaxWaiting,
		FrameRate:   f.MaxFrameRate,
		FrameBurst:  f.MaxFrameBurst,
		Joins:       f.MaxJoins,
	}
}

// proxies returns the networks of --trusted-proxies.
func (f *LimitFlags) proxies() (all []netip.Prefix, err error) {
	for _, text := range f.TrustedProxies {
		network, err := netip.ParsePrefix(text)
		if addr, single := netip.ParseAddr(text); single == nil {
			network, err = addr.Unmap().Prefix(addr.Unmap().BitLen())
		}
		if err != nil || network.Addr().Is4In6() { // of clients we know IPv4 as such
			return nil, fmt.Errorf("--trusted-proxies: %q is neither an address nor a network", text)
		}
		all = append(all, network.Masked())
	}
	return all, nil
}
