//go:build integration

package faults

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stolon/tests/harness"
	"stolon/tests/network"
)

// roomy is room for a small database and for a copy of it.
const roomy = "size=400m,mode=0700"

// ownDisk mounts a file system of its own on the directory, until the test ends.
func ownDisk(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, roomy); err != nil {
		t.Fatalf("mount a file system on %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// zeros never end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// fill writes a file until there is no room left on its file system.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling %s: %v, want no space left", file, err)
	}
}

// PostgreSQL dies, killed or of a full disk, and there is no room for it to
// start in: another is elected at once, long before failInterval, nothing is
// lost with synchronous replication, and once there is room the old master
// returns.
func TestAMasterWithoutRoomToStartIsReplacedAtOnce(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *harness.Keeper){
		"killed": func(_ *testing.T, k *harness.Keeper) { k.KillPostgres() },
		"ended by itself": func(t *testing.T, k *harness.Keeper) {
			harness.Await(t, soon, "no WAL can be written", func() (string, bool) {
				lsn, err := k.SQL().Try(time.Second, "select pg_switch_wal()")
				return lsn, err != nil
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			network.Need(t)
			c := harness.Start(t, harness.Options{
				Keepers: 3, Proxies: 1,
				Spec: harness.Quick(harness.Spec{"synchronousReplication": true, "failInterval": "120s"}),
				Early: func(c *harness.Cluster) {
					for _, uid := range []string{"keeper0", "keeper1", "keeper2"} {
						ownDisk(t, filepath.Join(c.Dir, uid))
					}
				},
			})
			c.AwaitSynchronous(soon)
			master, _ := c.Roles()
			w := harness.StartWriter(c.Proxies[0].SQL())
			w.AwaitRows(t, soon, 20)
			ballast := filepath.Join(master.DataDir, "ballast")
			fill(t, ballast)
			at := time.Now()
			end(t, master)
			c.AwaitAnother(soon, master)
			w.AwaitRowsSince(t, soon, at, 20)
			t.Logf("%s without an acknowledgement", w.Gap(at).Round(time.Millisecond))
			w.WantAll(t, c.Proxies[0].SQL())
			if err := os.Remove(ballast); err != nil {
				t.Fatal(err)
			}
			c.AwaitHealthy(2*soon, 3)
		})
	}
}
