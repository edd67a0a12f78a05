package harness

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"stolon/tests/network"
	"stolon/tests/servers"
)

// roomy is what the scratch directory should have free to be in memory.
const roomy = 8 << 30

// programs are the binaries under test, by the variable that names each.
var programs = []struct{ env, name string }{
	{"STKEEPER_BIN", "stolon-keeper"},
	{"STSENTINEL_BIN", "stolon-sentinel"},
	{"STPROXY_BIN", "stolon-proxy"},
	{"STCTL_BIN", "stolonctl"},
}

// Ordinary calls run as a user that PostgreSQL is willing to run as, with the
// environment that Start needs, and returns its result.
//
// As root it runs this very program again as user $STOLON_TEST_USER (default
// postgres), with copies of the binaries in a place that this user can read.
// Binaries that no STKEEPER_BIN, STSENTINEL_BIN, STPROXY_BIN, STCTL_BIN names
// are made by ./build; etcd is $ETCD_BIN or .test/bin/etcd. What all write goes
// to a scratch directory that is removed afterwards, in memory where there is room.
func Ordinary(run func() int) int { return ordinarily(run, false) }

// Apart is Ordinary in namespaces of its own, so that tests can make networks
// and file systems. See package network.
func Apart(run func() int) int { return ordinarily(run, true) }

func ordinarily(run func() int, apart bool) int {
	code, err := ordinary(run, apart)
	if err != nil {
		fmt.Fprintln(os.Stderr, "harness:", err)
		return 2
	}
	return code
}

func ordinary(run func() int, apart bool) (int, error) {
	if err := findBinaries(); err != nil {
		return 0, err
	}
	os.Setenv("PGBIN", PGBin())
	scratch, err := os.MkdirTemp(scratchParent(), "stolon-harness-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(scratch)
	defer sweep(scratch)
	if os.Geteuid() == 0 {
		return again(scratch, apart)
	}
	os.Setenv("TMPDIR", scratch)
	if !apart || network.Settled() {
		return run(), nil
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	network.Isolate(cmd, os.Geteuid(), os.Getegid())
	return follow(cmd)
}

// again runs this program as an ordinary user.
func again(scratch string, apart bool) (int, error) {
	name := os.Getenv("STOLON_TEST_USER")
	if name == "" {
		name = "postgres"
	}
	who, err := user.Lookup(name)
	if err != nil {
		return 0, fmt.Errorf("%w; PostgreSQL refuses to run as root: make this user or name another with STOLON_TEST_USER", err)
	}
	uid, _ := strconv.Atoi(who.Uid) // numbers on Linux
	gid, _ := strconv.Atoi(who.Gid)
	bin, tmp := filepath.Join(scratch, "bin"), filepath.Join(scratch, "tmp")
	if err := errors.Join(os.Chmod(scratch, 0o755), os.Mkdir(bin, 0o755), os.Mkdir(tmp, 0o700), os.Chown(tmp, uid, gid)); err != nil {
		return 0, err
	}
	self := filepath.Join(bin, "test")
	if err := copyProgram("/proc/self/exe", self); err != nil {
		return 0, err
	}
	env := append(os.Environ(), "HOME="+tmp, "STOLON_TEST_SCRATCH="+tmp)
	etcd, err := servers.EtcdBinary()
	if err != nil {
		return 0, err
	}
	os.Setenv("ETCD_BIN", etcd)
	copied := append(slices.Clone(programs), struct{ env, name string }{"ETCD_BIN", "etcd"})
	if os.Getenv("CONSUL_BIN") != "" {
		copied = append(copied, struct{ env, name string }{"CONSUL_BIN", "consul"})
	}
	for _, p := range copied {
		from := os.Getenv(p.env)
		to := filepath.Join(bin, p.name)
		if err := copyProgram(from, to); err != nil {
			return 0, err
		}
		env = append(env, p.env+"="+to)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Dir, cmd.Env = tmp, env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if apart {
		network.Isolate(cmd, uid, gid)
	}
	return follow(cmd)
}

// follow runs this program's other self and returns its exit status.
func follow(cmd *exec.Cmd) (int, error) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended
		}
	}()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	code := cmd.ProcessState.ExitCode()
	if code < 0 {
		code = 2
	}
	return code, nil
}

// findBinaries names in the environment every binary under test.
func findBinaries() error {
	built := false
	for _, p := range programs {
		if os.Getenv(p.env) != "" {
			continue
		}
		repo, err := repository()
		if err != nil {
			return fmt.Errorf("%w; set %s", err, p.env)
		}
		if !built {
			if out, err := exec.Command(filepath.Join(repo, "build")).CombinedOutput(); err != nil {
				return fmt.Errorf("./build: %w\n%s", err, out)
			}
			built = true
		}
		os.Setenv(p.env, filepath.Join(repo, "bin", p.name))
	}
	return nil
}

// repository is the directory of the go.mod above the working directory.
func repository() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
	}
	return "", fs.ErrNotExist
}

func scratchParent() string {
	if dir := os.Getenv("STOLON_TEST_SCRATCH"); dir != "" {
		return dir
	}
	const memory = "/dev/shm"
	var st unix.Statfs_t
	if err := unix.Statfs(memory, &st); err == nil && st.Bavail*uint64(st.Bsize) > roomy && unix.Access(memory, unix.W_OK) == nil {
		return memory
	}
	return "" // TMPDIR or /tmp
}

func copyProgram(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// sweep kills what still runs with its working directory below dir, which is
// PostgreSQL when the tests were ended before they could clean up.
func sweep(dir string) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if cwd, err := os.Readlink("/proc/" + e.Name() + "/cwd"); err == nil && strings.HasPrefix(cwd, dir+"/") {
			_ = unix.Kill(pid, unix.SIGKILL) // it may have ended
		}
	}
}

// PGBin is the directory of PostgreSQL's programs: $PGBIN, or the newest of Debian's.
func PGBin() string {
	if dir := os.Getenv("PGBIN"); dir != "" {
		return dir
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // a constant pattern
	if len(dirs) == 0 {
		return ""
	}
	return dirs[len(dirs)-1]
}
