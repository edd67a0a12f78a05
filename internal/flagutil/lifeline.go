package flagutil

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/spf13/pflag"
	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/lifeline"
)

// Lifeline is the flag --lifeline-address.
type Lifeline struct {
	address string // auto, off, host or host:port
}

const (
	lifelineAuto = "auto"
	lifelineOff  = "off"
)

// Add adds the flag.
func (f *Lifeline) Add(fs *pflag.FlagSet) {
	fs.StringVar(&f.address, "lifeline-address", lifelineAuto, "address, with a port or with any, at which sentinels hold a connection that tells them at once that this process has exited; auto is the address by which the store is reached, off is none")
}

// Check reports a value that can't be one.
func (f *Lifeline) Check() error {
	host, _, err := f.split()
	if err != nil {
		return fmt.Errorf("--lifeline-address %s: %w; say auto, off, an address, or address:port", f.address, err)
	}
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() {
		return fmt.Errorf("--lifeline-address %s: sentinels must know one address at which they reach this process", f.address)
	}
	return nil
}

func (f *Lifeline) split() (host, port string, err error) {
	if _, err := netip.ParseAddr(f.address); err == nil || !strings.Contains(f.address, ":") {
		host, port = f.address, "0"
	} else if host, port, err = net.SplitHostPort(f.address); err != nil {
		return "", "", err
	}
	if host == "" {
		return "", "", errors.New("no address")
	}
	return host, port, nil
}

// Serve serves the lifeline of the process uid until the returned function is
// called, which is when all else has ended. Without one the process does as
// well, only its end is noticed later.
func (f *Lifeline) Serve(ctx context.Context, c *Common, uid string, log *zap.Logger) (*cluster.Lifeline, func(), error) {
	none := func() {}
	if f.address == lifelineOff {
		return nil, none, nil
	}
	host, port, err := f.split()
	if err != nil {
		return nil, none, err
	}
	auto := host == lifelineAuto
	if auto {
		endpoints := c.StoreEndpoints
		if endpoints == "" {
			endpoints = "127.0.0.1" // the default of either store
		}
		host, err = lifeline.Address(ctx, strings.Split(endpoints, ","))
	}
	var l net.Listener
	if err == nil {
		l, err = lifeline.Listen(ctx, net.JoinHostPort(host, port))
	}
	switch {
	case err != nil && auto:
		log.Warn("no lifeline: should this process die, others wait for its promises to expire (--lifeline-address)", zap.Error(err))
		return nil, none, nil
	case err != nil:
		return nil, none, fmt.Errorf("--lifeline-address %s: %w", f.address, err)
	}
	line := &cluster.Lifeline{Address: l.Addr().String(), Host: lifeline.Host()}
	log.Info("lifeline", zap.String("address", line.Address))
	done := make(chan struct{})
	go func() {
		defer close(done)
		lifeline.Serve(l, uid)
	}()
	return line, func() { l.Close(); <-done }, nil
}
