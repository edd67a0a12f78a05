package postgresql

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestACopyGetsDirectoriesOfItsOwnElsewhere(t *testing.T) {
	ctx, disk := context.Background(), t.TempDir()
	i := instance(t)
	i.o.WALDir = filepath.Join(disk, "wal")
	full, empty := filepath.Join(disk, "full"), filepath.Join(disk, "a=b")
	for _, d := range []string{i.o.WALDir, filepath.Join(full, "PG_15_1"), filepath.Join(full, "stolon_1"), empty} {
		must(t, os.MkdirAll(d, 0o700))
	}
	args, err := i.elsewhere(ctx, Source{Tablespaces: []string{filepath.Join(full, "stolon_1"), empty}})
	must(t, err)
	want := []string{"--waldir", filepath.Join(i.o.WALDir, "stolon_1"), "--tablespace-mapping", filepath.Join(full, "stolon_1") + "=" + filepath.Join(full, "stolon_2")}
	if !slices.Equal(args, want) {
		t.Errorf("elsewhere = %q, want %q", args, want)
	}

	// What an interrupted copy left goes before the next; what others have stays.
	for _, d := range []string{"wal/stolon_1/archive_status", "full/stolon_2/PG_15_1/5", "a=b/PG_15_1"} {
		must(t, os.MkdirAll(filepath.Join(disk, d), 0o700))
	}
	must(t, os.WriteFile(filepath.Join(empty, "theirs"), nil, 0o600))
	must(t, i.forgetElsewhere(ctx))
	for name, want := range map[string]bool{"wal/stolon_1": false, "full/stolon_2": false, "a=b/PG_15_1": false, "a=b/theirs": true, "full/stolon_1": true, "full/PG_15_1": true} {
		if got := exists(filepath.Join(disk, name)); got != want {
			t.Errorf("%s is there: %t, want %t", name, got, want)
		}
	}
	if exists(i.madeFile()) {
		t.Error("the list is still there")
	}
}

func TestRemovedDataTakesAlongWhatItHasElsewhere(t *testing.T) {
	ctx, disk := context.Background(), t.TempDir()
	i := instance(t)
	i.o.WALDir = filepath.Join(disk, "wal")
	link := func(dir, name, target string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Join(disk, target), 0o700))
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700))
		must(t, os.Symlink(filepath.Join(disk, target), filepath.Join(dir, name)))
	}
	link(i.asideDir(), "pg_wal", "wal/stolon_1")
	link(i.asideDir(), "pg_tblspc/1", "own")
	must(t, os.MkdirAll(filepath.Join(disk, "own/PG_15_1"), 0o700))
	must(t, os.MkdirAll(filepath.Join(disk, "own/stolon_1"), 0o700))
	link(i.asideDir(), "pg_tblspc/2", "both/stolon_1")
	link(i.o.DataDir, "pg_tblspc/2", "both/stolon_1")
	must(t, i.DropAside(ctx))
	link(i.asideDir(), "pg_wal", "admins")
	must(t, i.DropAside(ctx))
	for name, want := range map[string]bool{"wal/stolon_1": false, "own/PG_15_1": false, "own/stolon_1": true, "both/stolon_1": true, "admins": true} {
		if got := exists(filepath.Join(disk, name)); got != want {
			t.Errorf("%s is there: %t, want %t", name, got, want)
		}
	}
}
