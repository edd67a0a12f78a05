package postgresql

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestAMountPointIsNotMovable(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{dir, filepath.Join(dir, "missing")} {
		if err := movable(path); err != nil {
			t.Errorf("movable(%s) = %v", path, err)
		}
	}
	if err := movable("/proc"); err == nil || !strings.Contains(err.Error(), "mount the file system at /, and move what is in it to /proc") {
		t.Errorf("movable(/proc) = %v", err)
	}
}
