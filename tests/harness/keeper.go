package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Names and passwords of the roles that every cluster has.
const (
	Superuser           = "stolon_admin"
	SuperuserPassword   = "super's pass\\word"
	Replication         = "repluser"
	ReplicationPassword = "replpassword"
)

// A Keeper is a keeper process and the PostgreSQL instance that it keeps.
type Keeper struct {
	*Process
	UID     string
	Port    string
	DataDir string
	// Flags replace or follow the usual ones at the next Start.
	Flags []string

	c       *Cluster
	stopped []int    // PostgreSQL processes, while frozen
	shared  []string // shared memory of killed postmasters
}

// Start starts the keeper.
func (k *Keeper) Start() {
	k.t.Helper()
	k.start(k.args()...)
}

func (k *Keeper) args() []string {
	usual := append(k.c.storeFlags(k.Relay),
		"--uid="+k.UID, "--data-dir="+k.DataDir, "--pg-bin-path="+PGBin(),
		"--pg-listen-address="+k.place.Address, "--pg-port="+k.Port,
		"--pg-su-username="+Superuser, "--pg-su-passwordfile="+k.c.passwordFile("su"),
		"--pg-repl-username="+Replication, "--pg-repl-passwordfile="+k.c.passwordFile("repl"))
	return override(usual, k.Flags)
}

// override returns flags with those replaced that more has too. An entry
// "--name" without a value removes the flag.
func override(flags, more []string) []string {
	out := slices.DeleteFunc(slices.Clone(flags), func(f string) bool {
		name, _, _ := strings.Cut(f, "=")
		return slices.ContainsFunc(more, func(m string) bool {
			other, _, _ := strings.Cut(m, "=")
			return other == name
		})
	})
	return append(out, slices.DeleteFunc(slices.Clone(more), func(f string) bool { return !strings.Contains(f, "=") })...)
}

// Restart stops and starts the keeper.
func (k *Keeper) Restart() {
	k.t.Helper()
	k.Stop()
	k.Start()
}

// SQL is the instance, as the superuser.
func (k *Keeper) SQL() Server {
	return Server{Host: k.place.Address, Port: k.Port, User: Superuser, Password: k.c.Password, t: k.t}
}

// PGDir is PostgreSQL's data directory.
func (k *Keeper) PGDir() string { return filepath.Join(k.DataDir, "postgres") }

// Postmaster is the pid of the running postmaster, 0 when there is none.
func (k *Keeper) Postmaster() int { return postmaster(k.PGDir()) }

func postmaster(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(first)
	if err != nil {
		return 0
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || cwd != dir {
		return 0 // a leftover
	}
	return pid
}

// KillPostgres kills the postmaster, which ends its backends too.
func (k *Keeper) KillPostgres() {
	k.t.Helper()
	pid := k.Postmaster()
	if pid == 0 {
		k.t.Fatalf("no postgres to kill in %s", k.PGDir())
	}
	k.shared = append(k.shared, sharedMemory(pid)...)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		k.t.Fatal(err)
	}
}

// EndPostgres ends the instance of a keeper that doesn't run.
func (k *Keeper) EndPostgres() { endPostgres(k.PGDir()) }

// KillBoth kills the keeper and then the postmaster.
func (k *Keeper) KillBoth() {
	k.t.Helper()
	k.Kill()
	k.KillPostgres()
}

// Freeze stops the execution of the keeper and of every PostgreSQL process, as
// a machine looks that is cut off.
func (k *Keeper) Freeze() {
	k.t.Helper()
	pid := k.Postmaster()
	k.Process.Freeze()
	if pid == 0 {
		return
	}
	// The postmaster first: then there are no new children.
	k.stopped = []int{pid}
	_ = unix.Kill(pid, unix.SIGSTOP) // it may have ended
	k.awaitStopped(pid)
	k.stopped = append(k.stopped, children(pid)...)
	for _, pid := range k.stopped[1:] {
		_ = unix.Kill(pid, unix.SIGSTOP)
	}
	for _, pid := range k.stopped {
		k.awaitStopped(pid)
	}
}

// Resume undoes Freeze.
func (k *Keeper) Resume() {
	k.t.Helper()
	for _, pid := range slices.Backward(k.stopped) {
		_ = unix.Kill(pid, unix.SIGCONT)
	}
	k.stopped = nil
	k.Process.Resume()
}

// children are the processes whose parent is pid.
func children(pid int) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		child, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if _, parent := stat("/proc/" + e.Name() + "/stat"); parent == strconv.Itoa(pid) {
			out = append(out, child)
		}
	}
	return out
}

// destroy ends the keeper and its instance, however they are.
func (k *Keeper) destroy() {
	programs := k.programs()
	k.Kill()
	endPostgres(k.PGDir())
	for _, pid := range programs {
		_ = unix.Kill(-pid, unix.SIGKILL) // a group each
	}
	Await(k.t, 5*time.Second, "what "+k.Name+" had started has ended", func() (string, bool) {
		return fmt.Sprint(programs), !slices.ContainsFunc(programs, living)
	})
	for _, f := range append(k.shared, "/tmp/.s.PGSQL."+k.Port, "/tmp/.s.PGSQL."+k.Port+".lock") {
		_ = os.Remove(f) // unless PostgreSQL did, at its next start
	}
}

// programs stops the keeper's execution and lists what it has started. That may
// be a PostgreSQL that has not yet written its pid file.
func (k *Keeper) programs() []int {
	if !k.Running() {
		return nil
	}
	_ = unix.Kill(k.PID(), unix.SIGSTOP) // it may have ended
	k.awaitStopped(k.PID())
	return children(k.PID())
}

// living reports whether the process has not ended.
func living(pid int) bool {
	state, _ := stat(fmt.Sprintf("/proc/%d/stat", pid))
	return state != "" && state != "Z"
}

// sharedMemory lists the POSIX shared memory that the process has mapped, and
// that nobody removes when it is killed.
func sharedMemory(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil
	}
	var out []string
	for _, f := range strings.Fields(string(b)) {
		if strings.HasPrefix(f, "/dev/shm/PostgreSQL.") {
			out = append(out, f)
		}
	}
	return out
}

// endPostgres ends the instance in dir by an immediate shutdown, or by force.
// What a killed one leaves of System V shared memory is removed: PostgreSQL
// does that only at the next start in the same directory.
func endPostgres(dir string) {
	segment := segmentOf(dir)
	if pid := postmaster(dir); pid != 0 {
		all := append([]int{pid}, children(pid)...)
		for _, pid := range all {
			_ = unix.Kill(pid, unix.SIGCONT)
		}
		_ = unix.Kill(pid, unix.SIGQUIT)
		for deadline := time.Now().Add(8 * time.Second); postmaster(dir) == pid && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		if postmaster(dir) == pid {
			for _, pid := range all {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	if segment >= 0 {
		_, _ = unix.SysvShmCtl(segment, unix.IPC_RMID, nil) // gone in most cases
	}
}

// segmentOf returns the shared memory segment that postmaster.pid names, or -1.
func segmentOf(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if err != nil {
		return -1
	}
	lines := strings.Split(string(b), "\n")
	if len(lines) < 7 {
		return -1
	}
	f := strings.Fields(lines[6])
	if len(f) != 2 {
		return -1
	}
	id, err := strconv.Atoi(f[1])
	if err != nil {
		return -1
	}
	return id
}
