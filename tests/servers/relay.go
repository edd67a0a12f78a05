package servers

import (
	"io"
	"net"
	"net/url"
	"sync"
	"testing"
)

// A Relay lies between clients and a store, as a load balancer does.
type Relay struct {
	Endpoint string // for --store-endpoints

	to    string
	mu    sync.Mutex
	pairs map[*pair]bool
}

// A pair is a connection of a client and the one to the store for it.
type pair struct {
	client, server net.Conn
	swallows       bool
}

// StartRelay starts one that ends with the test.
func StartRelay(t testing.TB, to *Store) *Relay {
	t.Helper()
	u, err := url.Parse(to.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	l := listen(t, Port(t))
	r := &Relay{Endpoint: u.Scheme + "://" + l.Addr().String(), to: u.Host, pairs: map[*pair]bool{}}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { r.forward(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		r.Drop()
		work.Wait()
	})
	return r
}

// Swallow lets nothing more through of the connections that exist, either way,
// and doesn't close them. It returns how many there are.
func (r *Relay) Swallow() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.pairs {
		p.swallows = true
	}
	return len(r.pairs)
}

// Drop closes the connections that exist.
func (r *Relay) Drop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.pairs {
		p.client.Close()
		p.server.Close()
	}
}

func (r *Relay) forward(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", r.to)
	if err != nil {
		return
	}
	defer server.Close()
	p := &pair{client: client, server: server}
	r.mu.Lock()
	r.pairs[p] = true
	r.mu.Unlock()
	var ends sync.WaitGroup
	pass := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return !p.swallows
	}
	ends.Go(func() { move(server, client, pass) })
	ends.Go(func() { move(client, server, pass) })
	ends.Wait()
	r.mu.Lock()
	delete(r.pairs, p)
	r.mu.Unlock()
}

// move moves the bytes that pass lets through until one side ends, and then
// ends both.
func move(dst net.Conn, src io.Reader, pass func() bool) {
	defer dst.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 && pass() {
			if _, err := dst.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
