// Package servers starts real servers for tests and stops them with the test:
// stores (store.go), which are etcd (etcd.go) or Consul (consul.go), on loopback ports that no other test
// process takes (ports.go).
package servers

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startTime is how long a server may take to serve.
const startTime = 60 * time.Second

// process is a server's.
type process struct {
	t    testing.TB
	at   Place
	name string
	args []string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// Stop ends it in order.
func (p *process) Stop() { p.end(unix.SIGTERM) }

// Kill ends it at once, also when it is frozen.
func (p *process) Kill() { p.end(unix.SIGKILL) }

// Freeze stops its execution: connections stay and nothing answers. The signal
// takes a moment to reach every thread; it has when Freeze returns.
func (p *process) Freeze() {
	p.t.Helper()
	p.signal(unix.SIGSTOP)
	for range 1000 {
		if p.stopped() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.t.Fatal(p.name + " does not stop on SIGSTOP")
}

// stopped: every thread's state is T.
func (p *process) stopped() bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
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
func (p *process) Resume() { p.signal(unix.SIGCONT) }

// run starts it. It ends with the test, and its log is shown if the test fails.
func (p *process) run() {
	p.t.Helper()
	p.t.Cleanup(func() {
		p.Kill()
		if p.t.Failed() {
			p.showLog()
		}
	})
	p.start()
}

func (p *process) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = p.at.Command(p.args[0], p.args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	// Should this process die without cleaning up, the server goes with it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.name, err)
	}
	done, cmd := make(chan struct{}), p.cmd
	p.done = done
	go func() {
		defer close(done)
		_ = cmd.Wait()
	}()
}

func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("%s to %s: %v", sig, p.name, err)
	}
}

func (p *process) end(sig syscall.Signal) {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Signal(sig) // it may have ended
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

func (p *process) showLog() {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	p.t.Logf("log of %s:\n%s", p.name, bytes.Join(lines[max(0, len(lines)-40):], []byte("\n")))
}

// awaitOK waits until the URL answers with 200.
func (p *process) awaitOK(url string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	for !ok(ctx, url) {
		select {
		case <-p.done:
			p.showLog()
			p.t.Fatalf("%s ended at its start", p.name)
		case <-ctx.Done():
			p.showLog()
			p.t.Fatalf("%s does not serve after %s", p.name, startTime)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func ok(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
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
