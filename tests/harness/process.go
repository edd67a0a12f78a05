package harness

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stolon/tests/servers"
)

// stopTime is how long a process may take to stop in order.
const stopTime = 40 * time.Second

// A Process is one program that can be started again and again. All its runs
// write to one log.
type Process struct {
	Name string
	// Relay lies between it and the store; nil: nothing does.
	Relay *servers.Relay

	t     testing.TB
	place servers.Place
	bin   string
	log   string
	cmd   *exec.Cmd
	done  chan struct{} // closed when it has ended
}

func newProcess(t testing.TB, dir string, place servers.Place, name, bin string) *Process {
	p := &Process{Name: name, t: t, place: place, bin: bin, log: filepath.Join(dir, name+".log")}
	t.Cleanup(func() {
		p.end(unix.SIGKILL)
		if t.Failed() || os.Getenv("STOLON_TEST_LOGS") != "" {
			p.showLog()
		}
	})
	return p
}

func (p *Process) start(args ...string) {
	p.t.Helper()
	if p.Running() {
		p.t.Fatalf("%s is started but runs", p.Name)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd = p.place.Command(p.bin, args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", p.Name, err)
	}
	cmd, done := p.cmd, make(chan struct{})
	p.done = done
	go func() {
		defer close(done)
		_ = cmd.Wait() // its state tells
	}()
}

// Running reports whether the process runs, or is frozen.
func (p *Process) Running() bool {
	if p.done == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PID of the last run.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Stop ends it in order and waits for that.
func (p *Process) Stop() {
	p.t.Helper()
	if !p.end(unix.SIGTERM) {
		p.t.Errorf("%s had to be killed, it did not stop within %s", p.Name, stopTime)
	}
}

// Kill ends it at once, also when it is frozen.
func (p *Process) Kill() { p.end(unix.SIGKILL) }

// Freeze stops its execution. All of it stands still when Freeze returns.
func (p *Process) Freeze() {
	p.t.Helper()
	p.signal(unix.SIGSTOP)
	p.awaitStopped(p.PID())
}

// awaitStopped waits until every thread of the process has taken its SIGSTOP.
func (p *Process) awaitStopped(pid int) {
	p.t.Helper()
	Await(p.t, 5*time.Second, fmt.Sprintf("process %d stands still", pid), func() (string, bool) {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // none when it has ended
		for _, path := range threads {
			if state, _ := stat(path); state != "" && state != "T" && state != "Z" {
				return state, false
			}
		}
		return "", true
	})
}

// stat is the state of a process or thread and its parent, both "" when it has
// ended.
func stat(path string) (state, parent string) {
	b, _ := os.ReadFile(path)
	// pid (name) state parent
	f := strings.Fields(string(b)[strings.LastIndex(string(b), ")")+1:])
	if len(f) < 2 {
		return "", ""
	}
	return f[0], f[1]
}

// Resume undoes Freeze.
func (p *Process) Resume() { p.signal(unix.SIGCONT) }

// AwaitExit waits until it ends by itself and returns its exit status.
func (p *Process) AwaitExit(timeout time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(timeout):
		p.t.Fatalf("%s still runs after %s", p.Name, timeout)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *Process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("%s to %s: %v", sig, p.Name, err)
	}
}

// end reports whether the signal did.
func (p *Process) end(sig syscall.Signal) bool {
	if !p.Running() {
		return true
	}
	_ = p.cmd.Process.Signal(sig) // it may have ended
	select {
	case <-p.done:
		return true
	case <-time.After(stopTime):
		_ = p.cmd.Process.Kill()
		<-p.done
		return false
	}
}

// Log is all that it has logged.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil && !os.IsNotExist(err) {
		p.t.Fatal(err)
	}
	return string(b)
}

// Mark is a place in the log: its end.
func (p *Process) Mark() int { return len(p.Log()) }

// Logged reports whether text was logged after mark.
func (p *Process) Logged(mark int, text string) bool { return strings.Contains(p.Log()[mark:], text) }

// AwaitLog waits until text is logged after mark.
func (p *Process) AwaitLog(timeout time.Duration, mark int, text string) {
	p.t.Helper()
	Await(p.t, timeout, fmt.Sprintf("%s logs %q", p.Name, text), func() (string, bool) {
		return "", p.Logged(mark, text)
	})
}

// WantLog fails the test if text was not logged.
func (p *Process) WantLog(text string) {
	p.t.Helper()
	if !p.Logged(0, text) {
		p.t.Errorf("%s has not logged %q", p.Name, text)
	}
}

func (p *Process) showLog() {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return
	}
	if dir := os.Getenv("STOLON_TEST_LOGS"); dir != "" {
		dir = filepath.Join(dir, filepath.FromSlash(p.t.Name()))
		if err := os.MkdirAll(dir, 0o755); err == nil {
			if err := os.WriteFile(filepath.Join(dir, p.Name+".log"), b, 0o644); err == nil {
				p.t.Logf("log of %s: %s", p.Name, filepath.Join(dir, p.Name+".log"))
				return
			}
		}
	}
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	p.t.Logf("log of %s, last of %d lines:\n%s", p.Name, len(lines), bytes.Join(lines[max(0, len(lines)-60):], []byte("\n")))
}
