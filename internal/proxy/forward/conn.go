package forward

import (
	"errors"
	"io"
	"net"
)

// endOf passes the end of one direction on, keeping the other one open: a
// client that has sent all may still wait for its answer.
func endOf(dst net.Conn, readErr error) error {
	if !errors.Is(readErr, io.EOF) {
		return readErr
	}
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return readErr
}

// resetConn closes c so that nothing more is sent.
func resetConn(c net.Conn) {
	if c == nil {
		return
	}
	if l, ok := c.(interface{ SetLinger(int) error }); ok {
		// Fails on a connection that is closed already, which is as good.
		_ = l.SetLinger(0)
	}
	c.Close()
}
