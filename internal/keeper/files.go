package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dirFiles are Files in a directory.
type dirFiles struct{ dir string }

// NewFiles returns the Files of a data directory.
func NewFiles(dir string) Files { return dirFiles{dir} }

func (f dirFiles) Load(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(f.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// Save writes a temporary file and renames it; both the file and the directory
// are synced before it returns.
func (f dirFiles) Save(name string, data []byte) (err error) {
	t, err := os.CreateTemp(f.dir, name+".tmp-") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(t.Name())
		}
	}()
	_, err = t.Write(data)
	err = errors.Join(err, t.Sync(), t.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(t.Name(), filepath.Join(f.dir, name)); err != nil {
		return err
	}
	d, err := os.Open(f.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// LockDataDir takes the lock that keeps a second keeper out of the data
// directory, until the file is closed or the process ends. It is 0.17's kind
// of lock, a POSIX one, so that each excludes the other.
func LockDataDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot take exclusive lock on data dir %q: %w", path, err)
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			err = errors.New("another keeper is using it")
		}
		return nil, fmt.Errorf("cannot take exclusive lock on data dir %q: %w", path, err)
	}
	return f, nil
}

// CheckUser refuses to go on as root, which PostgreSQL would too, later and
// less plainly.
func CheckUser() error {
	if os.Geteuid() == 0 {
		return errors.New("the keeper must not run as root, PostgreSQL refuses that: start it as an ordinary user, such as postgres")
	}
	return nil
}
