package servers

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"
)

// A junction lies between the members of an etcd cluster: what they tell each
// other goes through it, and one of them can be cut off from the others, with
// its clients still there. What is under way then is held up, as in a network
// that loses packets, and arrives when the member is back.
type junction struct {
	mu     sync.Mutex
	change *sync.Cond
	cut    *Store // nil when all is well
	cutID  string // the name that it calls itself by to others
	conns  []net.Conn
	closed bool
}

func newJunction(t testing.TB) *junction {
	j := &junction{}
	j.change = sync.NewCond(&j.mu)
	t.Cleanup(func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.closed, j.cut = true, nil
		j.change.Broadcast()
		for _, c := range j.conns {
			c.Close()
		}
	})
	return j
}

// CutOff keeps the member from the others of its cluster. Clients reach it.
func (s *Store) CutOff() {
	s.t.Helper()
	resp, err := http.Get(s.peer + "/members")
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var members []struct {
		ID         uint64
		ClientURLs []string
	}
	if err := json.NewDecoder(resp.Body).Decode(&members); err != nil {
		s.t.Fatal(err)
	}
	for _, m := range members {
		if len(m.ClientURLs) == 1 && m.ClientURLs[0] == s.Endpoint {
			s.between.set(s, strconv.FormatUint(m.ID, 16))
			return
		}
	}
	s.t.Fatalf("%s is not among the members %+v", s.Endpoint, members)
}

// Rejoin undoes CutOff and waits until the member serves.
func (s *Store) Rejoin() {
	s.t.Helper()
	s.between.set(nil, "")
	s.awaitReady()
}

func (j *junction) set(cut *Store, id string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.cut, j.cutID = cut, id
	j.change.Broadcast()
}

// pass waits until nothing keeps the member called from and the member to apart.
func (j *junction) pass(from string, to *Store) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.cut != nil && (j.cut == to || j.cutID == from) {
		j.change.Wait()
	}
}

// lead leads connections to a URL of its own, which it returns, to the member.
func (j *junction) lead(t testing.TB, to *Store) (url string) {
	t.Helper()
	l := listen(t, Port(t))
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go j.forward(c, to)
		}
	}()
	return "http://" + l.Addr().String()
}

// forward moves the bytes of one connection. Its first request says whose it is.
func (j *junction) forward(c net.Conn, to *Store) {
	defer c.Close()
	var head bytes.Buffer
	req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(c, &head)))
	if err != nil {
		return
	}
	from := req.Header.Get("X-Server-From")
	j.pass(from, to)
	server, err := net.Dial("tcp", to.peer[len("http://"):])
	if err != nil {
		return
	}
	defer server.Close()
	j.mu.Lock()
	j.conns = append(j.conns, c, server)
	closed := j.closed
	j.mu.Unlock()
	if closed {
		return
	}
	var ends sync.WaitGroup
	pass := func() bool { j.pass(from, to); return true }
	ends.Go(func() { move(server, io.MultiReader(&head, c), pass) })
	ends.Go(func() { move(c, server, pass) })
	ends.Wait()
}
