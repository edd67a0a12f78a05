package postgresql

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// postmaster is a running one, held by a pidfd: another process that gets its
// number can't be taken for it.
type postmaster struct {
	pid    int
	cmd    *exec.Cmd     // nil: adopted, not our child
	exited chan struct{} // closed when it has ended
	why    string        // how our child ended; set before exited is closed

	mu    sync.Mutex // guards what follows; the calls under it don't wait
	pidfd int
	ended bool
}

// newPostmaster holds the process, which exists: our own child, or one that
// find has looked at.
func newPostmaster(pid, pidfd int, cmd *exec.Cmd) *postmaster {
	p := &postmaster{pid: pid, pidfd: pidfd, cmd: cmd, exited: make(chan struct{})}
	go p.watch()
	return p
}

// watch lasts as long as the process.
func (p *postmaster) watch() {
	awaitEnd(p.pidfd)
	if p.cmd != nil {
		if err := p.cmd.Wait(); err != nil {
			p.why = err.Error()
		} else {
			p.why = "exit status 0"
		}
	}
	p.mu.Lock()
	unix.Close(p.pidfd)
	p.ended = true
	p.mu.Unlock()
	close(p.exited)
}

// awaitEnd returns when the process has ended.
func awaitEnd(pidfd int) {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1)
		if n > 0 {
			return
		}
		if err != nil && err != unix.EINTR { // no memory: that it couldn't look is no sign of death
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// signal is nil when the process has ended already.
func (p *postmaster) signal(s unix.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return nil
	}
	if err := unix.PidfdSendSignal(p.pidfd, s, nil, 0); err != nil && err != unix.ESRCH {
		return fmt.Errorf("signal %v to postmaster %d: %w", s, p.pid, err)
	}
	return nil
}

func (p *postmaster) alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Exited is closed when the postmaster that runs now has ended, whoever
// started it; nil when none runs.
func (i *Instance) Exited() <-chan struct{} {
	p, err := i.current()
	if err != nil {
		i.log.Warn("can't tell whether postgres runs", zap.Error(err))
	}
	if p == nil {
		return nil
	}
	return p.exited
}

// current returns the postmaster that runs; nil when none does. One that
// somebody else started is adopted.
func (i *Instance) current() (*postmaster, error) {
	i.mu.Lock()
	known := i.postmaster
	i.mu.Unlock()
	if known != nil && known.alive() {
		return known, nil
	}
	pid, pidfd, err := find(i.o.DataDir)
	if err != nil || pid == 0 {
		return nil, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.postmaster != nil && i.postmaster.alive() { // found by another caller meanwhile
		unix.Close(pidfd)
		return i.postmaster, nil
	}
	i.postmaster = newPostmaster(pid, pidfd, nil)
	return i.postmaster, nil
}

// find looks for the postmaster that owns the data directory. It takes hold of
// the process first and checks then that it is one: a number read from a file
// may be anybody's by now. pid is 0 when none runs.
func find(dir string) (pid, pidfd int, err error) {
	file, err := readPostmasterFile(dir)
	if err != nil || file.pid <= 0 {
		return 0, 0, err
	}
	pidfd, err = unix.PidfdOpen(file.pid, 0)
	if err == unix.ESRCH || err == unix.EINVAL || err == unix.ENOENT { // the last two: a thread of another process
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("open process %d: %w", file.pid, err)
	}
	if !isPostgres(file.pid, dir) || isBackend(file.pid) {
		unix.Close(pidfd)
		return 0, 0, nil
	}
	return file.pid, pidfd, nil
}

// isPostgres reports whether the process runs PostgreSQL's server program in
// the data directory. A zombie does not.
func isPostgres(pid int, dir string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	program, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil || filepath.Base(strings.TrimSuffix(program, " (deleted)")) != "postgres" {
		return false
	}
	cwd, err := os.Stat(filepath.Join(proc, "cwd"))
	if err != nil {
		return false
	}
	want, err := os.Stat(dir)
	return err == nil && os.SameFile(cwd, want)
}

// zombie: the process has ended, and its parent has not asked how yet.
func zombie(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	_, state, ok := strings.Cut(string(stat), ") ")
	return err == nil && ok && strings.HasPrefix(state, "Z")
}

// isBackend tells a postmaster's children by the title they give themselves.
func isBackend(pid int) bool {
	title, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return err == nil && strings.HasPrefix(string(title), "postgres: ")
}

// postmasterFile is what a running postmaster tells in postmaster.pid.
type postmasterFile struct {
	pid    int    // 0 without a file; negative for a single-user server
	status string // "starting", "standby", "ready", "stopping"; "" before it listens
}

func readPostmasterFile(dir string) (postmasterFile, error) {
	text, err := os.ReadFile(filepath.Join(dir, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return postmasterFile{}, nil
	}
	if err != nil {
		return postmasterFile{}, err
	}
	return parsePostmasterFile(string(text)), nil
}

// parsePostmasterFile takes a file that is still being written for none.
func parsePostmasterFile(text string) postmasterFile {
	lines := strings.Split(text, "\n")
	pid, err := strconv.ParseInt(strings.TrimSpace(lines[0]), 10, 32)
	if err != nil || len(lines) < 2 {
		return postmasterFile{}
	}
	f := postmasterFile{pid: int(pid)}
	if len(lines) >= 8 {
		f.status = strings.TrimSpace(lines[7])
	}
	return f
}

// Stop ends the postmaster and waits for its end. Stopping a stopped one is fine.
func (i *Instance) Stop(ctx context.Context, mode StopMode) error {
	p, err := i.current()
	if err != nil || p == nil {
		return err
	}
	s := unix.SIGINT
	if mode == Immediate {
		s = unix.SIGQUIT
	}
	if err := p.signal(s); err != nil {
		return err
	}
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop postmaster %d (%s): %w", p.pid, mode, ctx.Err())
	}
}

// endOrphans ends the server processes that a dead postmaster left in the data
// directory. They notice its death only between two statements; until then
// they hold the shared memory, so that no new postmaster starts, and could
// still acknowledge a commit.
func endOrphans(ctx context.Context, dir string) error {
	sig, since := unix.SIGQUIT, time.Now()
	for {
		pids, err := orphans(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Since(since) > time.Second {
			sig = unix.SIGKILL
		}
		for _, pid := range pids {
			endOrphan(pid, dir, sig)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("end the processes %v that a dead postmaster left behind: %w", pids, ctx.Err())
		}
	}
}

func endOrphan(pid int, dir string, s unix.Signal) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(pidfd)
	if isPostgres(pid, dir) {
		// Without effect on one that ended; the next look tells.
		_ = unix.PidfdSendSignal(pidfd, s, nil, 0)
	}
}

func orphans(dir string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && isPostgres(pid, dir) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
