package harness

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// A Script is a test outside of "go test", for programs that use this package.
type Script struct {
	testing.TB // nil: what isn't below is not for scripts

	mu       sync.Mutex
	failed   bool
	cleanups []func()
}

// Run runs f and then what it left to clean up. It returns an exit status.
func Run(f func(*Script)) int {
	s := &Script{}
	done := make(chan struct{})
	go func() { // Fatal ends the goroutine
		defer close(done)
		defer s.cleanUp()
		f(s)
	}()
	<-done
	if s.Failed() {
		return 1
	}
	return 0
}

func (s *Script) cleanUp() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
}

// Helper does nothing.
func (s *Script) Helper() {}

// Name of the script.
func (s *Script) Name() string { return "script" }

// Cleanup calls f at the end, last one first.
func (s *Script) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// TempDir is a directory that goes at the end.
func (s *Script) TempDir() string {
	dir, err := os.MkdirTemp("", "script-")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Failed reports whether an error was told.
func (s *Script) Failed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// Fail notes a failure.
func (s *Script) Fail() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = true
}

// Logf tells something.
func (s *Script) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Log tells something.
func (s *Script) Log(args ...any) { fmt.Fprintln(os.Stderr, args...) }

// Errorf tells a failure.
func (s *Script) Errorf(format string, args ...any) {
	s.Logf(format, args...)
	s.Fail()
}

// Error tells a failure.
func (s *Script) Error(args ...any) {
	s.Log(args...)
	s.Fail()
}

// Fatalf tells a failure and ends the script.
func (s *Script) Fatalf(format string, args ...any) {
	s.Errorf(format, args...)
	runtime.Goexit()
}

// Fatal tells a failure and ends the script.
func (s *Script) Fatal(args ...any) {
	s.Error(args...)
	runtime.Goexit()
}
