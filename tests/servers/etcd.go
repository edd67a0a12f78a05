// Package servers starts real servers for tests and stops them with the test:
// etcd (etcd.go), on loopback ports that no other test process takes
// (ports.go).
package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startTime is how long a server may take to serve.
const startTime = 60 * time.Second

// An Etcd is one etcd member.
type Etcd struct {
	// Endpoint is its client URL, for --store-endpoints.
	Endpoint string

	t    testing.TB
	args []string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// StartEtcd starts an etcd and waits until it serves. It ends with the test,
// and its log is shown if the test fails.
func StartEtcd(t testing.TB) *Etcd {
	t.Helper()
	return StartEtcdCluster(t, 1)[0]
}

// StartEtcdCluster starts an etcd cluster of n members and waits until all serve.
func StartEtcdCluster(t testing.TB, n int) []*Etcd {
	t.Helper()
	bin, err := EtcdBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var members []*Etcd
	var peers, cluster []string
	for i := range n {
		peers = append(peers, fmt.Sprintf("http://127.0.0.1:%d", Port(t)))
		cluster = append(cluster, fmt.Sprintf("etcd%d=%s", i, peers[i]))
	}
	for i := range n {
		name := fmt.Sprintf("etcd%d", i)
		e := &Etcd{
			Endpoint: fmt.Sprintf("http://127.0.0.1:%d", Port(t)),
			t:        t,
			log:      filepath.Join(dir, name+".log"),
		}
		e.args = []string{
			bin, "--name", name, "--data-dir", filepath.Join(dir, name),
			"--listen-client-urls", e.Endpoint, "--advertise-client-urls", e.Endpoint,
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new",
			"--initial-cluster-token", t.Name(), "--log-level", "warn",
		}
		t.Cleanup(func() {
			e.Kill()
			if t.Failed() {
				e.showLog()
			}
		})
		e.start()
		members = append(members, e)
	}
	for _, e := range members {
		e.awaitReady()
	}
	return members
}

// Endpoints is the members' value for --store-endpoints.
func Endpoints(members []*Etcd) string {
	var urls []string
	for _, e := range members {
		urls = append(urls, e.Endpoint)
	}
	return strings.Join(urls, ",")
}

// Stop ends it in order.
func (e *Etcd) Stop() { e.end(unix.SIGTERM) }

// Kill ends it at once, also when it is frozen.
func (e *Etcd) Kill() { e.end(unix.SIGKILL) }

// Freeze stops its execution: connections stay and nothing answers. The signal
// takes a moment to reach every thread; it has when Freeze returns.
func (e *Etcd) Freeze() {
	e.t.Helper()
	e.signal(unix.SIGSTOP)
	for range 1000 {
		if e.stopped() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	e.t.Fatal("etcd does not stop on SIGSTOP")
}

// stopped: every thread's state is T.
func (e *Etcd) stopped() bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", e.cmd.Process.Pid))
	for _, path := range threads {
		b, _ := os.ReadFile(path)
		_, rest, ok := strings.Cut(string(b), ") ")
		if ok && !strings.HasPrefix(rest, "T") {
			return false
		}
	}
	return len(threads) > 0
}

// Resume undoes Freeze.
func (e *Etcd) Resume() { e.signal(unix.SIGCONT) }

// Restart ends it if it runs and starts it with the same data and ports. It
// waits until it serves.
func (e *Etcd) Restart() {
	e.t.Helper()
	e.Kill()
	e.start()
	e.awaitReady()
}

func (e *Etcd) start() {
	e.t.Helper()
	log, err := os.OpenFile(e.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		e.t.Fatal(err)
	}
	defer log.Close()
	e.cmd = exec.Command(e.args[0], e.args[1:]...)
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	// Should this process die without cleaning up, etcd goes with it.
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := e.cmd.Start(); err != nil {
		e.t.Fatalf("start etcd: %v", err)
	}
	done, cmd := make(chan struct{}), e.cmd
	e.done = done
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
}

func (e *Etcd) awaitReady() {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	for !e.healthy(ctx) {
		select {
		case <-e.done:
			e.showLog()
			e.t.Fatalf("etcd %s ended at its start", e.Endpoint)
		case <-ctx.Done():
			e.showLog()
			e.t.Fatalf("etcd %s does not serve after %s", e.Endpoint, startTime)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// healthy asks for a linearizable read.
func (e *Etcd) healthy(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.Endpoint+"/health", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func (e *Etcd) signal(sig syscall.Signal) {
	e.t.Helper()
	if err := e.cmd.Process.Signal(sig); err != nil {
		e.t.Fatalf("%s to etcd: %v", sig, err)
	}
}

func (e *Etcd) end(sig syscall.Signal) {
	if e.cmd == nil || e.cmd.Process == nil {
		return
	}
	_ = e.cmd.Process.Signal(sig) // it may have ended
	select {
	case <-e.done:
	case <-time.After(20 * time.Second):
		_ = e.cmd.Process.Kill()
		<-e.done
	}
}

func (e *Etcd) showLog() {
	b, err := os.ReadFile(e.log)
	if err != nil {
		return
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	e.t.Logf("log of etcd %s:\n%s", e.Endpoint, bytes.Join(lines[max(0, len(lines)-40):], []byte("\n")))
}

var built = struct {
	sync.Mutex
	path string
}{}

// EtcdBinary returns the program: $ETCD_BIN, or .test/bin/etcd in this
// repository, which is built when it is missing.
func EtcdBinary() (string, error) {
	if bin := os.Getenv("ETCD_BIN"); bin != "" {
		return bin, nil
	}
	built.Lock()
	defer built.Unlock()
	if built.path != "" {
		return built.path, nil
	}
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("where is this repository? set ETCD_BIN")
	}
	repo := filepath.Dir(filepath.Dir(filepath.Dir(here)))
	bin := filepath.Join(repo, ".test", "bin", "etcd")
	if _, err := os.Stat(bin); err == nil {
		built.path = bin
		return bin, nil
	}
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(bin+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	// Several test processes may want it at once.
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(bin); err == nil {
		built.path = bin
		return bin, nil
	}
	fmt.Fprintf(os.Stderr, "building etcd into %s; set ETCD_BIN to use another\n", bin)
	build := exec.Command("go", "build", "-o", bin+".new", "go.etcd.io/etcd/server/v3")
	build.Dir = filepath.Join(repo, "tests", "tools", "etcd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build etcd: %w\n%s", err, out)
	}
	if err := os.Rename(bin+".new", bin); err != nil {
		return "", err
	}
	built.path = bin
	return bin, nil
}
