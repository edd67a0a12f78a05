package lifeline

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"stolon/internal/cluster"
)

// TestMain is also the process whose lifeline is held: it serves it until it is
// killed.
func TestMain(m *testing.M) {
	uid := os.Getenv("LIFELINE_TEST_UID")
	if uid == "" {
		os.Exit(m.Run())
	}
	l, err := Listen(context.Background(), os.Getenv("LIFELINE_TEST_ADDRESS"))
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString(l.Addr().String() + "\n")
	Serve(l, uid)
}

// process runs one that serves the lifeline of uid.
func process(t *testing.T, uid, address string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LIFELINE_TEST_UID="+uid, "LIFELINE_TEST_ADDRESS="+address)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd, line[:len(line)-1]
}

// holding returns a Holder with a lifeline in its hands.
func holding(t *testing.T, uid, address string) *Holder {
	t.Helper()
	connected := make(chan struct{}, 1)
	h := NewHolder(func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := Dial(ctx, address)
		if err == nil {
			conn = greeted{conn, connected}
		}
		return conn, err
	})
	t.Cleanup(h.Close)
	h.Hold(map[string]string{uid: address})
	<-connected
	return h
}

// greeted tells when the first bytes were read.
type greeted struct {
	net.Conn
	read chan<- struct{}
}

func (g greeted) Read(b []byte) (int, error) {
	n, err := g.Conn.Read(b)
	if n > 0 {
		select {
		case g.read <- struct{}{}:
		default:
		}
	}
	return n, err
}

func TestAKilledProcessHasExited(t *testing.T) {
	cmd, address := process(t, "p1", "127.0.0.1:0")
	h := holding(t, "p1", address)
	killed := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	wantExited(t, h, "p1")
	if d := time.Since(killed); d < again {
		t.Errorf("noticed after %s, want two looks %s apart", d, again)
	}
}

func wantExited(t *testing.T, h *Holder, want string) {
	t.Helper()
	select {
	case uid := <-h.Exited():
		if uid != want {
			t.Errorf("%q exited, want %q", uid, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("nothing was noticed")
	}
}

func TestAddressIsThatOfTheWayToTheStore(t *testing.T) {
	for _, endpoints := range [][]string{{"127.0.0.1:2379"}, {"http://127.0.0.1:2379"}, {"127.0.0.1"}, {"nonsense:port", "https://127.0.0.1"}} {
		if got, err := Address(t.Context(), endpoints); got != "127.0.0.1" || err != nil {
			t.Errorf("Address(%q) = %q, %v, want 127.0.0.1", endpoints, got, err)
		}
	}
	if got, err := Address(t.Context(), []string{"[::1]:2379"}); err == nil && got != "::1" {
		t.Errorf("Address of [::1]:2379 = %q", got)
	}
	if got, err := Address(t.Context(), []string{"unix:///x"}); err == nil {
		t.Errorf("Address of a socket = %q, want an error", got)
	}
}

func TestReachable(t *testing.T) {
	tests := []struct {
		name string
		l    *cluster.Lifeline
		want bool
	}{
		{"none", nil, false},
		{"of another machine", &cluster.Lifeline{Address: "10.0.0.2:1", Host: "b"}, true},
		{"loopback here", &cluster.Lifeline{Address: "127.0.0.1:1", Host: "a"}, true},
		{"loopback here, IPv6", &cluster.Lifeline{Address: "[::1]:1", Host: "a"}, true},
		{"loopback elsewhere", &cluster.Lifeline{Address: "127.0.0.1:1", Host: "b"}, false},
		{"loopback elsewhere, mapped", &cluster.Lifeline{Address: "[::ffff:127.0.0.1]:1", Host: "b"}, false},
		{"loopback nobody knows where", &cluster.Lifeline{Address: "127.0.0.1:1"}, false},
		{"no address", &cluster.Lifeline{Address: "nonsense", Host: "a"}, false},
	}
	for _, tt := range tests {
		if got := Reachable(tt.l, "a"); got != tt.want {
			t.Errorf("%s: Reachable(%+v) = %t, want %t", tt.name, tt.l, got, tt.want)
		}
	}
}

// TestWhatProvesNothing: each ends a lifeline, or refuses one, without an end of
// the process.
func TestWhatProvesNothing(t *testing.T) {
	tests := []struct {
		name string
		end  func(l net.Listener, conn *net.TCPConn)
		then func(l net.Listener)
	}{
		{"a reset", func(l net.Listener, conn *net.TCPConn) { l.Close(); conn.SetLinger(0); conn.Close() }, nil},
		{"a FIN while the port still answers", func(_ net.Listener, conn *net.TCPConn) { conn.Close() }, greet("p1")},
		{"a FIN while the port accepts and is silent", func(_ net.Listener, conn *net.TCPConn) { conn.Close() }, nil},
		{"a FIN while the port is somebody's who speaks otherwise", func(_ net.Listener, conn *net.TCPConn) { conn.Close() }, greetWith("SSH-2.0\n")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Listen(t.Context(), "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			h := NewHolder(Dial)
			defer h.Close()
			h.Hold(map[string]string{"p1": l.Addr().String()})
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Write([]byte(greeting + "p1\n")); err != nil {
				t.Fatal(err)
			}
			tt.end(l, conn.(*net.TCPConn))
			if tt.then != nil {
				go tt.then(l)
			}
			select {
			case uid := <-h.Exited():
				t.Errorf("%s is said to have exited", uid)
			case <-time.After(patience + 2*again):
			}
		})
	}
}

func TestAnotherProcessAtThePortHasTheFirstOneGone(t *testing.T) {
	cmd, address := process(t, "p1", "127.0.0.1:0")
	h := holding(t, "p1", address)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	process(t, "p2", address)
	wantExited(t, h, "p1")
}

func greet(uid string) func(net.Listener) { return greetWith(greeting + uid + "\n") }

func greetWith(line string) func(net.Listener) {
	return func(l net.Listener) {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(line))
		}
	}
}
