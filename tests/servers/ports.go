package servers

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Ports lie below the range from which the kernel takes ports for outgoing
// connections, so that a server that is down for a moment finds its port free.
const (
	firstPort = 20000
	lastPort  = 32000
)

// reserved holds the locks of this process's ports, so that they aren't closed.
var reserved struct {
	sync.Mutex
	files []*os.File
}

// Port returns a TCP port of 127.0.0.1 that nobody listens on, and which no
// other test process that asks here gets while this one runs.
func Port(t testing.TB) int {
	t.Helper()
	dir := "/tmp/stolon-test-ports" // whatever TMPDIR is: all test processes meet here
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	_ = os.Chmod(dir, 0o1777) // for tests of other users; fails if it is theirs
	for range 1000 {
		port := firstPort + rand.IntN(lastPort-firstPort)
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(port)), os.O_RDONLY|os.O_CREATE, 0o666)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil || !free(port) {
			f.Close()
			continue
		}
		reserved.Lock()
		reserved.files = append(reserved.files, f)
		reserved.Unlock()
		return port
	}
	t.Fatal("no free port")
	return 0
}

// listen listens on a port of Port's. That one was tried a moment ago: a process
// that another goroutine has just forked holds what tried it until it becomes
// another program.
func listen(t testing.TB, port int) net.Listener {
	t.Helper()
	for n := 0; ; n++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return l
		}
		if n == 100 || !errors.Is(err, unix.EADDRINUSE) {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func free(port int) bool {
	// PostgreSQL's socket that another user's server left there when it was killed.
	if _, err := os.Lstat(fmt.Sprintf("/tmp/.s.PGSQL.%d.lock", port)); err == nil {
		return false
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}
