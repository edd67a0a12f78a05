package proxy

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// listen opens the listening socket if it isn't open.
func (p *Proxy) listen(ctx context.Context) error {
	if p.stopServing != nil {
		return nil
	}
	address := net.JoinHostPort(p.o.ListenAddress, p.o.Port)
	l, err := p.o.Listen(ctx, address)
	if err != nil {
		return fmt.Errorf("listen on %s (--listen-address, --port): %w", address, err)
	}
	p.log.Info("Starting proxying", zap.String("address", address))
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.stopServing = func() {
		cancel()
		l.Close()
	}
	p.serving.Go(func() { p.fwd.Serve(ctx, l) })
	return nil
}

func (p *Proxy) stopListening() {
	if p.stopServing == nil {
		return
	}
	p.log.Info("Stopping listening")
	p.stopServing()
	p.stopServing = nil
}

// listen, dial and resolve are what Options default to. Multipath TCP stays
// off: a reset has to end a connection at once and for good.

func listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", address)
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", address)
}

// resolve prefers IPv4 addresses, as 0.17 does.
func resolve(ctx context.Context, host string) (string, error) {
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return "", err
	}
	i := max(0, slices.IndexFunc(ips, func(ip netip.Addr) bool { return ip.Unmap().Is4() }))
	return ips[i].Unmap().String(), nil
}

// register registers the proxy's metrics. None of 0.17 is among them.
func (p *Proxy) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "stolon_proxy_connections",
			Help: "Client connections being served.",
		}, func() float64 { return float64(p.fwd.Open()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "stolon_proxy_connections_held",
			Help: "Client connections that wait for a master.",
		}, func() float64 { return float64(p.fwd.Held()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "stolon_proxy_connections_accepted_total",
			Help: "Client connections accepted.",
		}, func() float64 { return float64(p.fwd.Accepted()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "stolon_proxy_connections_cut_total",
			Help: "Client connections cut because the route ended or no check succeeded in time.",
		}, func() float64 { return float64(p.fwd.CutOff()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "stolon_proxy_last_check_success_age_seconds",
			Help: "Seconds since the last successful check; infinite before the first.",
		}, p.checkAge),
	} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (p *Proxy) checkAge() float64 {
	last := p.lastCheck.Load()
	if last == never {
		return math.Inf(1)
	}
	return (p.o.Clock() - time.Duration(last)).Seconds()
}
