package lifeline

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"stolon/internal/cluster"
)

const (
	// patience is how long a connection and its greeting may take, and glance
	// the same for a look whether the process has exited: there may be others.
	patience = time.Second
	glance   = 200 * time.Millisecond
	// again lies between the looks whether a process has really exited, of which
	// two in a row must find it gone (protocols.md S5), and there are looks at
	// most: the kernel may end the connections of a process before its port.
	again = 100 * time.Millisecond
	looks = 10
	// retry lies between two tries to get hold of a lifeline.
	retry = 2 * time.Second
)

// Holder holds lifelines to other processes. Its methods are for one goroutine.
type Holder struct {
	dial   func(ctx context.Context, address string) (net.Conn, error)
	exited chan string
	group  sync.WaitGroup
	held   map[string]line // by uid
}

type line struct {
	address string
	drop    context.CancelFunc
}

// NewHolder returns a Holder of no lifeline.
func NewHolder(dial func(ctx context.Context, address string) (net.Conn, error)) *Holder {
	return &Holder{dial: dial, exited: make(chan string), held: map[string]line{}}
}

// Hold makes the lifelines those to the given processes, addresses by uid. It
// does not wait.
func (h *Holder) Hold(addresses map[string]string) {
	for uid, l := range h.held {
		if addresses[uid] != l.address {
			l.drop()
			delete(h.held, uid)
		}
	}
	for _, uid := range cluster.SortedKeys(addresses) {
		address := addresses[uid]
		if _, ok := h.held[uid]; ok {
			continue
		}
		ctx, drop := context.WithCancel(context.Background())
		h.held[uid] = line{address: address, drop: drop}
		h.group.Go(func() { h.follow(ctx, uid, address) })
	}
}

// Exited tells the uids of processes that have exited while their lifeline was
// held.
func (h *Holder) Exited() <-chan string { return h.exited }

// Close drops all lifelines.
func (h *Holder) Close() {
	h.Hold(nil)
	h.group.Wait()
}

// follow holds one lifeline until ctx ends.
func (h *Holder) follow(ctx context.Context, uid, address string) {
	for ctx.Err() == nil {
		if h.hold(ctx, uid, address) && h.hasExited(ctx, uid, address) {
			select {
			case h.exited <- uid:
			case <-ctx.Done():
			}
		}
		pause(ctx, retry)
	}
}

// hold reports whether there was a lifeline and it ended with a FIN.
func (h *Holder) hold(ctx context.Context, uid, address string) bool {
	conn, r, who, err := h.connect(ctx, address, patience)
	if err != nil {
		return false
	}
	defer conn.Close()
	if who != uid {
		return false
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_, err = r.ReadByte()
	return errors.Is(err, io.EOF)
}

// hasExited reports whether the process, whose lifeline has ended, has exited.
func (h *Holder) hasExited(ctx context.Context, uid, address string) bool {
	gone := 0
	for range looks {
		if !h.gone(ctx, uid, address) {
			gone = 0
		} else if gone++; gone == 2 {
			return true
		}
		if !pause(ctx, again) {
			break
		}
	}
	return false
}

// gone reports whether the port is certainly not the process's any more: it
// refuses connections, or another process answers.
func (h *Holder) gone(ctx context.Context, uid, address string) bool {
	conn, _, who, err := h.connect(ctx, address, glance)
	if err != nil {
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	conn.Close()
	return who != uid
}

var errGreeting = errors.New("not a lifeline")

// connect connects to the address and tells who is there. An error other than
// a refusal tells nothing.
func (h *Holder) connect(ctx context.Context, address string, limit time.Duration) (net.Conn, *bufio.Reader, string, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	conn, err := h.dial(ctx, address)
	if err != nil {
		return nil, nil, "", err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	r := bufio.NewReaderSize(conn, 128)
	first, err := r.ReadSlice('\n')
	who, ok := strings.CutPrefix(strings.TrimSuffix(string(first), "\n"), greeting)
	if !stop() || err != nil || !ok {
		conn.Close()
		return nil, nil, "", errGreeting
	}
	return conn, r, who, nil
}

// pause reports whether it lasted.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
