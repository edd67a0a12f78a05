package postgresql

import (
	"sync"

	"golang.org/x/sys/unix"
)

// receivers watches the WAL receiver that runs: its end is the first that a
// standby notices of the end of its master.
type receivers struct {
	mu   sync.Mutex
	pid  int
	gone chan struct{}
}

// end returns a channel that is closed when the process has ended; nil for 0.
func (r *receivers) end(pid int) <-chan struct{} {
	if pid == 0 {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pid == pid {
		select {
		case <-r.gone: // a new process with the old number
		default:
			return r.gone
		}
	}
	gone := make(chan struct{})
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		close(gone) // it has ended already
		return gone
	}
	r.pid, r.gone = pid, gone
	go func() {
		awaitEnd(pidfd)
		unix.Close(pidfd)
		close(gone)
	}()
	return gone
}
