package postgresql

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// program run once to its end.
type program struct {
	name string
	args []string
	// secret is what the program finds in the file secretPath: it exists in
	// memory only, and for this program only.
	secret string
	env    []string     // beside the inherited
	line   func(string) // told each line that the program prints; nil: nobody
}

// secretPath is where a program with a secret finds it: its first descriptor
// after the standard ones.
const secretPath = "/proc/self/fd/3"

// run runs a program. When ctx ends, it and what it started are killed; they
// don't outlive the keeper either.
func (i *Instance) run(ctx context.Context, p program) error {
	path, err := i.program(p.name)
	if err != nil {
		return err
	}
	out := &lineWriter{each: p.line}
	cmd := exec.CommandContext(ctx, path, p.args...)
	cmd.Env = append(environment(), p.env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if p.secret != "" {
		f, err := secretFile(p.secret)
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.ExtraFiles = []*os.File{f}
	}
	// The kernel counts the end of the thread that started it as our death.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	out.flush()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if len(out.last) > 0 {
		return fmt.Errorf("%s: %w: %s", p.name, err, strings.Join(out.last, "; "))
	}
	return fmt.Errorf("%s: %w", p.name, err)
}

// secretFile is a file without a name, which only its descriptor leads to.
func secretFile(content string) (*os.File, error) {
	fd, err := unix.MemfdCreate("stolon", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd")
	_, err = f.WriteString(content)
	// libpq takes no password from a file that others could read.
	if err = errors.Join(err, f.Chmod(0o600)); err != nil {
		f.Close()
		return nil, fmt.Errorf("write a file in memory: %w", err)
	}
	return f, nil
}

// lineWriter cuts what a program prints into lines and keeps the last few, for
// the error.
type lineWriter struct {
	each func(string)
	rest []byte
	last []string
}

const linesKept = 4

func (w *lineWriter) Write(b []byte) (int, error) {
	w.rest = append(w.rest, b...)
	for {
		n := bytes.IndexAny(w.rest, "\r\n")
		if n < 0 {
			return len(b), nil
		}
		w.line(string(w.rest[:n]))
		w.rest = w.rest[n+1:]
	}
}

func (w *lineWriter) flush() {
	w.line(string(w.rest))
	w.rest = nil
}

func (w *lineWriter) line(s string) {
	s = strings.TrimSpace(s)
	if s == "" || strings.Contains(s, "STATEMENT:") { // initdb shows the one that sets the password
		return
	}
	w.last = append(w.last, s)
	w.last = w.last[max(0, len(w.last)-linesKept):]
	if w.each != nil {
		w.each(s)
	}
}
