package keeper

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestSaveReplacesAFileForItsOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	f := NewFiles(dir)
	if b, err := f.Load("dbstate"); b != nil || err != nil {
		t.Errorf("Load of a missing file = %q, %v", b, err)
	}
	for _, text := range []string{"one", "two"} {
		if err := f.Save("dbstate", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if b, err := f.Load("dbstate"); string(b) != text || err != nil {
			t.Errorf("Load = %q, %v, want %q", b, err, text)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "dbstate"))
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// A POSIX lock keeps out other processes only, so the second keeper is one.
func TestTheDataDirIsLockedAgainstAnotherProcess(t *testing.T) {
	if dir := os.Getenv("STOLON_TEST_LOCK"); dir != "" {
		_, err := LockDataDir(dir)
		t.Fatalf("second lock: %v", err)
	}
	dir := t.TempDir()
	lock, err := LockDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	second := func() string {
		cmd := exec.Command(os.Args[0], "-test.run=^TestTheDataDirIsLockedAgainstAnotherProcess$")
		cmd.Env = append(os.Environ(), "STOLON_TEST_LOCK="+dir)
		out, _ := cmd.CombinedOutput()
		return string(out)
	}
	if out := second(); !strings.Contains(out, `second lock: cannot take exclusive lock on data dir "`+dir+`/lock"`) {
		t.Errorf("while locked: %s", out)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if out := second(); !strings.Contains(out, "second lock: <nil>") {
		t.Errorf("after: %s", out)
	}
	if info, err := os.Stat(filepath.Join(dir, "lock")); err != nil || info.Mode() != 0o644 {
		t.Errorf("lock file: %v, %v", info, err)
	}
}
