// Package lifeline lets one process know that another has exited, long before
// anything that it promised in the store is over (protocols.md S5, S15).
//
// A lifeline is an idle TCP connection to a port that nothing but the end of
// its process closes: the kernel then ends the connection with a FIN, and
// refuses newcomers. Serve is the side of the process that may exit, Holder
// the side of those that want to know.
//
// Silence, a reset, an answer that does not come: all of that may have other
// causes and tells nothing.
package lifeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"stolon/internal/cluster"
)

const (
	greeting = "stolon-lifeline "
	// most is how many lifelines a process holds: each sentinel has one.
	most = 64
	// acceptPause lies between two tries when there are too many open files.
	acceptPause = 100 * time.Millisecond
	// lookup bounds the look for this machine's address.
	lookup = 5 * time.Second
)

// Serve accepts lifelines to the process uid until l is closed, and returns
// when the last has ended. Only a process about to exit closes l, and not before
// everything else that it did for others has ended.
func Serve(l net.Listener, uid string) {
	var g sync.WaitGroup
	defer g.Wait()
	places := make(chan struct{}, most)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(acceptPause)
			continue
		}
		select {
		case places <- struct{}{}:
		default:
			conn.Close() // without a greeting, so it was never a lifeline
			continue
		}
		g.Go(func() {
			defer func() { <-places }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			if _, err := io.WriteString(conn, greeting+uid+"\n"); err == nil {
				// Unread bytes would make a reset of the FIN.
				_, _ = io.Copy(io.Discard, conn)
			}
		})
	}
}

// Listen opens the port for Serve. Multipath TCP stays off: a FIN then is one
// of the very connection.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", address)
}

// Dial is what a Holder dials with, unless it is told otherwise.
func Dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", address)
}

// Host identifies this machine and its network namespace, which processes
// share whose loopback addresses are the same.
func Host() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	ns, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(boot)) + " " + ns
}

// Reachable reports whether a process on host can hold the lifeline. One on a
// loopback address is another process's on another machine.
func Reachable(l *cluster.Lifeline, host string) bool {
	if l == nil {
		return false
	}
	at, err := netip.ParseAddrPort(l.Address)
	return err == nil && (!at.Addr().Unmap().IsLoopback() || host != "" && l.Host == host)
}

// Address returns the address at which others reach this machine, most likely:
// the one that its connections to the store come from. Endpoints are the store's, as
// URLs or host:port. Nothing is sent.
func Address(ctx context.Context, endpoints []string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, lookup)
	defer cancel()
	var last error
	for _, e := range endpoints {
		hostport := e
		if u, err := url.Parse(e); err == nil && u.Host != "" {
			hostport = u.Host
		}
		if _, _, err := net.SplitHostPort(hostport); err != nil {
			hostport = net.JoinHostPort(strings.Trim(hostport, "[]"), "1")
		}
		conn, err := new(net.Dialer).DialContext(ctx, "udp", hostport)
		if err != nil {
			last = err
			continue
		}
		local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
		conn.Close()
		return local.Unmap().String(), nil
	}
	return "", fmt.Errorf("no address by which the store is reached: %w", last)
}
