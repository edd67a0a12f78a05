package forward

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const (
	startingUp = "the database system is starting up"
	asksPass   = "R\x00\x00\x00\x08\x00\x00\x00\x03"
	noEntry    = "no pg_hba.conf entry for host"
)

// A master answers start-ups as PostgreSQL does. What it says of itself is
// settled when it is dialled, as with PostgreSQL.
type master struct {
	mu     sync.Mutex
	says   string   // "" it asks for a password, or the words of a refusal
	tls    bool     // it can encrypt
	asked  []string // start-ups, without those of probes
	dials  int
	probes int
}

func (m *master) set(says string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.says = says
}

func (m *master) counts() (dials, probes int, asked []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.dials, m.probes, append([]string(nil), m.asked...)
}

func (m *master) dial() net.Conn {
	near, far := net.Pipe()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dials++
	says, tls := m.says, m.tls
	go m.serve(far, says, tls)
	return near
}

func (m *master) serve(conn net.Conn, says string, tls bool) {
	defer conn.Close()
	for {
		b, err := readPacket(conn)
		switch {
		case err != nil:
			return
		case kindOf(b) == request && (!tls || codeOf(b) == gssRequest):
			io.WriteString(conn, "N")
			continue
		case kindOf(b) == request:
			io.WriteString(conn, "S")
			if says != "" {
				says = "an alert" // nobody else can read it
			}
			m.session(conn, says)
			return
		}
		m.mu.Lock()
		if strings.Contains(string(b), prober) {
			m.probes++
		} else {
			m.asked = append(m.asked, string(b))
		}
		m.mu.Unlock()
		if kindOf(b) == plain && says != "an end" {
			m.session(conn, says)
		}
		return
	}
}

func (m *master) session(conn net.Conn, says string) {
	switch says {
	case "":
		io.WriteString(conn, asksPass)
		io.Copy(conn, conn)
	case "silence":
		io.Copy(io.Discard, conn)
	case "an alert":
		io.WriteString(conn, says)
	case noEntry:
		conn.Write(fatal(notAllowed, says))
	default:
		conn.Write(fatal(cannotConnectNow, says))
	}
}

// beside runs f with a holder whose clients are led to m.
func beside(t *testing.T, m *master, f func(h *holder)) {
	holding(t, func(h *holder) {
		h.masters.Store("m1", m)
		h.to("m1")
		f(h)
		h.Cut()
	})
}

// begin connects a client that says the packets of a start-up one after the
// other, each after a byte of answer, and returns what answers the last one.
func (h *holder) begin(packets ...string) (client net.Conn, answer func() string) {
	client = h.l.connect()
	got, done := "", make(chan struct{})
	go func() {
		defer close(done)
		for n, p := range packets {
			if _, err := io.WriteString(client, p); err != nil {
				return
			}
			b := make([]byte, 1)
			if n == len(packets)-1 {
				b = make([]byte, 1024)
			}
			k, err := client.Read(b)
			if got = string(b[:k]); err != nil {
				got += err.Error()
			}
		}
	}()
	return client, func() string {
		synctest.Wait()
		select {
		case <-done:
			return got
		default:
			return "nothing yet"
		}
	}
}

func (h *holder) want(what string, answer func() string, want string) {
	h.t.Helper()
	if got := answer(); got != want {
		h.t.Errorf("%s: the client read %q after %s, want %q", what, got, time.Since(h.start), want)
	}
}

var plainStart = startup(protocol3, userPacket)

// A server that starts, stops or isn't consistent yet takes connections and
// tells everybody to come again. The client is spared that.
func TestAClientWaitsWhileTheMasterStarts(t *testing.T) {
	tests := []struct {
		name    string
		tls     bool
		packets []string
		want    string
	}{
		{"plain", false, []string{plainStart}, asksPass},
		{"TLS", true, []string{startup(sslRequest, "")}, "S"},
		{"no TLS to be had", false, []string{startup(sslRequest, ""), plainStart}, asksPass},
		{"neither GSS nor TLS", false, []string{startup(gssRequest, ""), startup(sslRequest, ""), plainStart}, asksPass},
		{"TLS after GSS", true, []string{startup(gssRequest, ""), startup(sslRequest, "")}, "S"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &master{says: startingUp, tls: tt.tls}
			beside(t, m, func(h *holder) {
				client, answer := h.begin(tt.packets...)
				defer client.Close()
				time.Sleep(20 * time.Second)
				h.want("while it starts", answer, "nothing yet")
				if h.Held() != 1 {
					t.Errorf("Held() = %d, want 1", h.Held())
				}
				m.set("")
				time.Sleep(2 * lastRetry)
				h.want("once it has started", answer, tt.want)
				if _, _, asked := m.counts(); tt.want == asksPass && asked[len(asked)-1] != plainStart {
					t.Errorf("the server was asked %q, want the client's own start-up", asked)
				}
			})
		})
	}
}

// What a client says without waiting for the answer isn't lost, nor repeated.
func TestOnlyTheStartUpIsRepeated(t *testing.T) {
	m := &master{says: startingUp}
	beside(t, m, func(h *holder) {
		client := h.l.connect()
		defer client.Close()
		go io.WriteString(client, plainStart+"and more")
		time.Sleep(5 * time.Second)
		m.set("")
		receive(t, client, asksPass+"and more")
		_, _, asked := m.counts()
		for _, a := range asked {
			if a != plainStart {
				t.Errorf("the server was asked %q, want the start-up alone", a)
			}
		}
	})
}

func TestACancelRequestIsPassedOnOnce(t *testing.T) {
	m := &master{says: "an end"}
	beside(t, m, func(h *holder) {
		cancel := startup(cancelRequest, "12345678")
		client, answer := h.begin(cancel)
		defer client.Close()
		time.Sleep(5 * time.Second)
		h.want("cancel", answer, "EOF")
		if _, _, asked := m.counts(); len(asked) != 1 || asked[0] != cancel {
			t.Errorf("the server was asked %q, want the request once", asked)
		}
	})
}

func TestAMasterThatStartsForeverIsNamedAsTheReason(t *testing.T) {
	why := "stolon-proxy: the master accepts no connections: " + startingUp + " (waited 30s, --hold-timeout)"
	for name, packets := range map[string][]string{
		"plain": {plainStart}, "TLS": {startup(sslRequest, ""), plainStart}, "GSS": {startup(gssRequest, ""), startup(sslRequest, ""), plainStart},
	} {
		t.Run(name, func(t *testing.T) {
			beside(t, &master{says: startingUp, tls: true}, func(h *holder) {
				client, answer := h.begin(packets...)
				defer client.Close()
				time.Sleep(29 * time.Second)
				h.want("within the time", answer, "nothing yet")
				time.Sleep(2 * time.Second)
				h.want("past it", answer, string(fatal("57P03", why)))
			})
		})
	}
}

// The time that a client takes to say something isn't waiting.
func TestAClientThatIsSlowToSpeakWaitsAsLong(t *testing.T) {
	m := &master{says: startingUp}
	beside(t, m, func(h *holder) {
		client := h.l.connect()
		defer client.Close()
		time.Sleep(time.Minute)
		go io.WriteString(client, plainStart)
		time.Sleep(20 * time.Second)
		m.set("")
		receive(t, client, asksPass)
	})
}

// Without a hold the proxy doesn't look at what is said.
func TestWithoutAHoldTheServersWordsPass(t *testing.T) {
	m := &master{says: startingUp}
	beside(t, m, func(h *holder) {
		h.o.HoldTimeout = 0
		client, answer := h.begin(plainStart)
		defer client.Close()
		h.want("no hold", answer, string(fatal("57P03", startingUp)))
	})
}

// A start is asked about by one for all: it has other things to do.
func TestAStartingMasterIsNotFloodedByThoseWhoWait(t *testing.T) {
	m := &master{says: startingUp, tls: true}
	beside(t, m, func(h *holder) {
		var answers []func() string
		const clients = 500
		for n := range clients {
			packet := plainStart
			if n%2 == 0 {
				packet = startup(sslRequest, "")
			}
			client, answer := h.begin(packet)
			defer client.Close()
			answers = append(answers, answer)
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		if dials, probes, _ := m.counts(); dials > 120 {
			t.Errorf("%d connections in 10s of the start, %d probes, want one each %s", dials, probes, longestPause)
		}
		m.set("")
		time.Sleep(2 * lastRetry)
		for n, answer := range answers {
			if got := answer(); got != "S" && got != asksPass {
				t.Fatalf("client %d read %q, want to be let in", n, got)
			}
		}
	})
}

// An open connection vouches for its server: nobody needs to ask.
func TestAClientOfAMasterInServiceCostsOneConnection(t *testing.T) {
	m := &master{tls: true}
	beside(t, m, func(h *holder) {
		for n, packet := range []string{startup(sslRequest, ""), startup(sslRequest, ""), plainStart} {
			before, _, _ := m.counts()
			client, answer := h.begin(packet)
			defer client.Close()
			if got := answer(); got != "S" && got != asksPass {
				t.Fatalf("client %d read %q, want to be let in", n, got)
			}
			if after, probes, _ := m.counts(); n > 0 && after != before+1 || probes != 1 {
				t.Errorf("client %d took %d connections, %d probes so far, want 1 and 1", n, after-before, probes)
			}
			time.Sleep(time.Minute)
		}
	})
}

// A server that is ended before it has answered has answered nothing.
func TestAnEndWithoutAWordIsTriedOnceMore(t *testing.T) {
	m := &master{says: "an end"}
	beside(t, m, func(h *holder) {
		client, answer := h.begin(plainStart)
		defer client.Close()
		h.want("at first", answer, "nothing yet")
		m.set("")
		time.Sleep(firstRetry)
		h.want("then", answer, asksPass)
	})
	m = &master{says: "an end"}
	beside(t, m, func(h *holder) {
		client, answer := h.begin(plainStart)
		defer client.Close()
		time.Sleep(time.Second)
		h.want("at last", answer, "EOF")
		if _, _, asked := m.counts(); len(asked) != 2 {
			t.Errorf("asked %d times, want 2: it may be what the server ended of", len(asked))
		}
	})
}

// A listener that ends resets those that wait for it to accept them.
func TestConnectionsThatNobodyAcceptedAreTriedAgain(t *testing.T) {
	w := newWorld(t, dialTCP)
	w.f.o.HoldTimeout = time.Minute
	w.lead()
	client := w.connect()
	send(t, client, plainStart)
	for range 3 {
		server := w.accept()
		receive(t, server, plainStart)
		reset(server)
	}
	server := w.accept()
	receive(t, server, plainStart)
	send(t, server, asksPass)
	receive(t, client, asksPass)
}

// Protocols.md K10: after a restart users are kept out for a while, in the same
// words as those who are never let in.
func TestUsersWhoAreKeptOutAfterARestartWait(t *testing.T) {
	m := &master{says: startingUp}
	beside(t, m, func(h *holder) {
		client, answer := h.begin(plainStart)
		defer client.Close()
		time.Sleep(time.Second)
		m.set(noEntry)
		time.Sleep(20 * time.Second)
		h.want("kept out", answer, "nothing yet")
		m.set("")
		time.Sleep(lastRetry)
		h.want("let in", answer, asksPass)
		m.set(noEntry)
		client, answer = h.begin(plainStart)
		defer client.Close()
		time.Sleep(11 * time.Second)
		h.want("some time after the restart", answer, string(fatal("28000", noEntry)))
	})
	beside(t, m, func(h *holder) {
		client, answer := h.begin(plainStart)
		defer client.Close()
		h.want("without a restart", answer, string(fatal("28000", noEntry)))
	})
}

// Of TLS nothing can be read. But where a probe was let in before the restart,
// users are kept out if it isn't after it.
func TestTLSUsersWhoAreKeptOutAfterARestartWait(t *testing.T) {
	m := &master{tls: true}
	beside(t, m, func(h *holder) {
		tls := startup(sslRequest, "")
		first, answer := h.begin(tls)
		h.want("before", answer, "S")
		m.set(startingUp)
		first.Close()
		time.Sleep(time.Second)
		client, answer := h.begin(tls)
		defer client.Close()
		time.Sleep(time.Second)
		m.set(noEntry)
		time.Sleep(20 * time.Second)
		h.want("kept out", answer, "nothing yet")
		m.set("")
		time.Sleep(2 * lastRetry)
		h.want("let in", answer, "S")
	})
	m = &master{tls: true, says: startingUp}
	beside(t, m, func(h *holder) {
		client, answer := h.begin(startup(sslRequest, ""))
		defer client.Close()
		m.set(noEntry)
		time.Sleep(2 * lastRetry)
		h.want("where a probe was never let in", answer, "S")
	})
}

// A frozen master takes connections and says nothing. Who waits for its answer
// when it is replaced is led to the next one.
func TestACutBeforeTheFirstAnswerHoldsTheClient(t *testing.T) {
	beside(t, &master{says: "silence"}, func(h *holder) {
		m2 := &master{}
		h.masters.Store("m2", m2)
		client := h.l.connect()
		defer client.Close()
		io.WriteString(client, plainStart)
		time.Sleep(20 * time.Second)
		h.Cut()
		time.Sleep(5 * time.Second)
		h.to("m2")
		receive(t, client, asksPass)
		if _, _, asked := m2.counts(); len(asked) != 1 || asked[0] != plainStart {
			t.Errorf("the next master was asked %q, want the client's start-up", asked)
		}
	})
}

func TestACutEndsAClientThatSaysNothing(t *testing.T) {
	beside(t, &master{}, func(h *holder) {
		client := h.l.connect()
		synctest.Wait()
		h.Cut()
		if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			t.Errorf("the client read %d bytes, %v, want its end", n, err)
		}
	})
}

// newcomer is a client, led to the master, that may wait that long.
func (w *world) newcomer(hold time.Duration) (client, server *net.TCPConn) {
	w.f.o.HoldTimeout = hold
	w.lead()
	return w.connect(), w.accept()
}

// Protocols.md P3: the clock is looked at between the server's answer and its
// way to the client, and between the client's start-up and its way there.
func TestNoAnswerAndNoStartUpPassesAfterTheDeadline(t *testing.T) {
	for _, late := range []string{"answer", "start-up"} {
		t.Run(late, func(t *testing.T) {
			w := newWorld(t, dialTCP)
			client, server := w.newcomer(time.Minute)
			if late == "answer" {
				send(t, client, plainStart)
				receive(t, server, plainStart)
			}
			w.clock.Advance(2 * time.Hour)
			if late == "answer" {
				send(t, server, asksPass)
			} else {
				send(t, client, plainStart)
			}
			if got, _ := io.ReadAll(client); !strings.HasPrefix(string(got), "E") || !strings.Contains(string(got), "lost contact with the store") {
				t.Errorf("the client read %q, want a refusal", got)
			}
			if got, _ := io.ReadAll(server); len(got) > 0 {
				t.Errorf("the server read %q, want nothing", got)
			}
		})
	}
}

// Protocols.md P5: also a cut that comes between an answer's reading and its
// writing. Either the client was led before and is reset, or it goes on waiting.
func TestAnAnswerAndACutAtTheSameTime(t *testing.T) {
	for range 20 {
		w := newWorld(t, dialTCP)
		client, server := w.newcomer(200 * time.Millisecond)
		send(t, client, plainStart)
		receive(t, server, plainStart)
		cut := make(chan struct{})
		go func() {
			defer close(cut)
			w.f.Cut()
		}()
		server.Write([]byte(asksPass))
		<-cut
		server.Write([]byte("after the cut"))
		got, err := io.ReadAll(client)
		waited := err == nil && strings.Contains(string(got), "no master at present")
		if led := errors.Is(err, syscall.ECONNRESET) && strings.HasPrefix(asksPass, string(got)); !led && !waited {
			t.Fatalf("the client read %q, %v, want a reset or a refusal", got, err)
		}
	}
}

func TestStartPacketIsOneOfAUser(t *testing.T) {
	b := startPacket("u", "d")
	if kindOf(b) != plain || binary.BigEndian.Uint32(b) != uint32(len(b)) || !strings.HasSuffix(string(b), "user\x00u\x00database\x00d\x00\x00") {
		t.Errorf("startPacket() = %q", b)
	}
}
