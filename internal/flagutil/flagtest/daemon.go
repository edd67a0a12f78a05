package flagtest

import (
	"bytes"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Run is the run function of a daemon's command.
type Run func(args []string, getenv func(string) string, stdout, stderr io.Writer) int

// Stderr runs a command that ends by itself.
func (run Run) Stderr(t *testing.T, args ...string) (code int, stderr string) {
	t.Helper()
	var out, errout bytes.Buffer
	code = run(args, func(string) string { return "" }, &out, &errout)
	return code, out.String() + errout.String()
}

// WithoutStore runs a daemon whose store refuses connections, until it has
// logged the text; then it sends this process a SIGTERM. It wants exit code 0,
// and returns what was logged.
func (run Run) WithoutStore(t *testing.T, text string, args ...string) string {
	t.Helper()
	w := &awaiter{text: text, seen: make(chan struct{})}
	ended := make(chan int, 1)
	args = append([]string{"--cluster-name", "c", "--store-backend", "etcdv3", "--store-endpoints", refusing(t), "--store-timeout", "100ms"}, args...)
	go func() { ended <- run(args, func(string) string { return "" }, io.Discard, w) }()
	select {
	case <-w.seen:
		syscall.Kill(syscall.Getpid(), syscall.SIGTERM)
	case code := <-ended:
		t.Fatalf("ended by itself with exit code %d:\n%s", code, w)
	case <-time.After(30 * time.Second):
		t.Fatalf("did not log %q:\n%s", text, w)
	}
	select {
	case code := <-ended:
		if code != 0 {
			t.Errorf("exit code %d after SIGTERM:\n%s", code, w)
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("goes on after SIGTERM:\n%s", w)
	}
	return w.String()
}

func refusing(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return l.Addr().String()
}

// awaiter is a log that closes seen once it holds text.
type awaiter struct {
	text string
	seen chan struct{}

	mu  sync.Mutex
	log bytes.Buffer
}

func (w *awaiter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := strings.Contains(w.log.String(), w.text)
	w.log.Write(b)
	if !before && strings.Contains(w.log.String(), w.text) {
		close(w.seen)
	}
	return len(b), nil
}

func (w *awaiter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}
