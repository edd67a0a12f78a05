package etcd

import (
	"context"
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A line is the connection to one endpoint. gRPC makes it, and keeps no way to
// end it.
type line struct{ conn atomic.Pointer[net.TCPConn] }

// dial is for grpc.WithContextDialer.
func (l *line) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if tcp, ok := conn.(*net.TCPConn); ok {
		l.conn.Store(tcp)
	}
	return conn, err
}

// heard is how many bytes had come by a connection at some moment.
type heard struct {
	conn  *net.TCPConn
	bytes uint64
}

func (l *line) heard() heard {
	h := heard{conn: l.conn.Load()}
	if h.conn == nil {
		return h
	}
	raw, err := h.conn.SyscallConn()
	if err != nil {
		return h
	}
	_ = raw.Control(func(fd uintptr) { // not of a closed connection
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			h.bytes = info.Bytes_received
		}
	})
	return h
}

// hangUp closes the connection if nothing has come by it since. A server that
// lives says something to each request, if only that it has arrived, so one
// that is merely slow is left alone.
func (l *line) hangUp(since heard) {
	now := l.heard()
	if now.conn == nil || now.bytes > since.bytes || now.conn != since.conn && now.bytes > 0 {
		return
	}
	now.conn.Close() // gRPC notices, and makes another when it needs one
}
