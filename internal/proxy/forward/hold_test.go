package forward

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// startup is a packet of a client's start-up.
func startup(code uint32, rest string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(rest)))
	return string(binary.BigEndian.AppendUint32(b, code)) + rest
}

const userPacket = "user\x00postgres\x00\x00"

// holding runs f with a Forwarder that holds clients for 30 s, and a master
// that answers when up.
func holding(t *testing.T, f func(h *holder)) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		h := &holder{t: t, l: newPipeListener(), start: start, servers: make(chan net.Conn, 2*maxHeld)}
		clock := func() time.Duration { return time.Hour + time.Since(start) }
		h.Forwarder = New(Options{Clock: clock, Dial: h.dial, HoldTimeout: 30 * time.Second, Log: zap.NewNop()})
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan struct{})
		go func() {
			defer close(served)
			h.Serve(ctx, h.l)
		}()
		h.Lead("", clock()+time.Hour)
		f(h)
		cancel()
		h.l.Close()
		<-served
		h.Close()
		if n := h.Held(); n != 0 {
			t.Errorf("Held() = %d after Close, want 0", n)
		}
	})
}

type holder struct {
	*Forwarder
	t       *testing.T
	l       *pipeListener
	start   time.Time
	down    atomic.Value // string: the address that refuses
	servers chan net.Conn
	masters sync.Map // by address: a *master that answers, rather than servers
}

func (h *holder) dial(_ context.Context, address string) (net.Conn, error) {
	if address == h.down.Load() {
		return nil, errors.New("refused")
	}
	if m, ok := h.masters.Load(address); ok {
		return m.(*master).dial(), nil
	}
	near, far := net.Pipe()
	h.servers <- far
	return near, nil
}

// lead leads to address for an hour.
func (h *holder) to(address string) { h.Lead(address, time.Hour+time.Since(h.start)+time.Hour) }

// wantLed wants the client to be led now, and none of its bytes lost.
func (h *holder) wantLed(client net.Conn) {
	h.t.Helper()
	synctest.Wait()
	select {
	case server := <-h.servers:
		go io.WriteString(client, "first bytes")
		receive(h.t, server, "first bytes")
		server.Close()
		client.Close()
	default:
		h.t.Fatalf("after %s the client is not led", time.Since(h.start))
	}
}

// wantRefused wants the client to be refused within a time.
func (h *holder) wantRefused(client net.Conn, within time.Duration, text string) {
	h.t.Helper()
	then := time.Now()
	got := h.say(client, startup(protocol3, userPacket))
	if !strings.HasPrefix(got, "E") || !strings.Contains(got, "C57P03\x00") || !strings.Contains(got, text) {
		h.t.Errorf("the client read %q, want a FATAL 57P03 with %q", got, text)
	}
	if took := time.Since(then); took > within {
		h.t.Errorf("the client was told after %s, want %s", took, within)
	}
}

// say sends packets of a start-up and returns all that comes back.
func (h *holder) say(client net.Conn, packets ...string) string {
	go func() {
		for _, p := range packets {
			if _, err := io.WriteString(client, p); err != nil {
				return
			}
		}
	}()
	got, _ := io.ReadAll(client)
	return string(got)
}

func TestAClientWaitsForAMaster(t *testing.T) {
	holding(t, func(h *holder) {
		client := h.l.connect()
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if len(h.servers) > 0 || h.Held() != 1 {
			t.Fatalf("%d dials and Held() = %d without a route, want 0 and 1", len(h.servers), h.Held())
		}
		h.to("m2")
		h.wantLed(client)
	})
}

func TestAClientWaitsWhileTheMasterRefuses(t *testing.T) {
	holding(t, func(h *holder) {
		h.down.Store("m1")
		h.to("m1")
		client := h.l.connect()
		time.Sleep(5 * time.Second)
		h.Cut()
		time.Sleep(5 * time.Second)
		h.to("m2")
		h.wantLed(client)
	})
}

func TestAMasterThatComesBackIsFoundWithoutAChangeOfTheRoute(t *testing.T) {
	holding(t, func(h *holder) {
		h.down.Store("m1")
		h.to("m1")
		client := h.l.connect()
		time.Sleep(5 * time.Second)
		h.down.Store("")
		time.Sleep(lastRetry)
		h.wantLed(client)
	})
}

// Protocols.md P5: a client that was about to be led when the cut came waits
// for the next master; its dial comes to nothing.
func TestACutDuringTheDialHoldsTheClient(t *testing.T) {
	holding(t, func(h *holder) {
		dialled := make(chan struct{})
		h.o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			if address == "m2" {
				return h.dial(ctx, address)
			}
			close(dialled)
			time.Sleep(2 * time.Second) // and doesn't heed ctx
			return h.dial(ctx, address)
		}
		h.to("m1")
		client := h.l.connect()
		<-dialled
		h.Cut()
		time.Sleep(3 * time.Second)
		old := <-h.servers
		if got, err := io.ReadAll(old); len(got) > 0 || err != nil {
			t.Errorf("the old master read %q, %v, want nothing", got, err)
		}
		h.to("m2")
		h.wantLed(client)
	})
}

func TestPastTheHoldTimeoutClientsAreRefused(t *testing.T) {
	tests := []struct {
		name    string
		packets []string
		want    string // the answer before the error
		err     bool
	}{
		{"plain", []string{startup(protocol3, userPacket)}, "", true},
		{"newer minor version", []string{startup(protocol3+2, userPacket)}, "", true},
		{"TLS", []string{startup(sslRequest, ""), startup(protocol3, userPacket)}, "N", true},
		{"GSS, then TLS", []string{startup(gssRequest, ""), startup(sslRequest, ""), startup(protocol3, userPacket)}, "NN", true},
		{"cancel request", []string{startup(cancelRequest, "12345678")}, "", false},
		{"version 2", []string{startup(2<<16, userPacket)}, "", false},
		{"not PostgreSQL", []string{"GET / HTTP/1.1\r\n\r\n"}, "", false},
		{"only requests for encryption", []string{startup(sslRequest, ""), startup(sslRequest, ""), startup(sslRequest, ""), startup(sslRequest, "")}, "NNN", false},
		{"silent", nil, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			holding(t, func(h *holder) {
				got := h.say(h.l.connect(), tt.packets...)
				rest, ok := strings.CutPrefix(got, tt.want)
				if !ok || (rest != "") != tt.err {
					t.Fatalf("the client read %q, want %q and an error: %t", got, tt.want, tt.err)
				}
				message := "stolon-proxy: the cluster has no master at present (waited 30s, --hold-timeout)"
				if want := string(fatal("57P03", message)); tt.err && rest != want {
					t.Errorf("the client read the error %q, want %q", rest, want)
				}
				if took := time.Since(h.start); took < 30*time.Second || took > 31*time.Second {
					t.Errorf("the client waited %s, want 30s and at most a second to ask", took)
				}
			})
		})
	}
}

func TestAMasterThatStaysAwayIsNamedAsTheReason(t *testing.T) {
	holding(t, func(h *holder) {
		h.down.Store("m1")
		h.to("m1")
		h.wantRefused(h.l.connect(), 31*time.Second, "the master can't be reached")
	})
}

// Protocols.md P8: past its deadline the proxy knows nothing.
func TestPastTheDeadlineNobodyWaits(t *testing.T) {
	holding(t, func(h *holder) {
		waiting := h.l.connect()
		time.Sleep(time.Second)
		h.Shorten(time.Hour + time.Since(h.start) + 4*time.Second)
		h.wantRefused(waiting, 4*time.Second, "lost contact with the store")
		h.wantRefused(h.l.connect(), 0, "lost contact with the store")
	})
}

func TestHeldClientsAreBounded(t *testing.T) {
	holding(t, func(h *holder) {
		for range maxHeld {
			h.l.connect()
		}
		synctest.Wait()
		h.wantRefused(h.l.connect(), 0, "1000 clients wait for one already")
		h.to("m1")
		synctest.Wait()
		if led, held := len(h.servers), h.Held(); led != maxHeld || held != 0 {
			t.Errorf("%d clients led and %d held once there is a master, want %d and 0", led, held, maxHeld)
		}
	})
}

func TestCloseRefusesThoseThatWait(t *testing.T) {
	told := make(chan string, 1)
	holding(t, func(h *holder) {
		client := h.l.connect()
		synctest.Wait()
		go func() { told <- h.say(client, startup(protocol3, userPacket)) }()
	})
	if got := <-told; !strings.Contains(got, "C57P03") || !strings.Contains(got, "being stopped") {
		t.Errorf("the client read %q, want a FATAL 57P03", got)
	}
}
