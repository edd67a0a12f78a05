package postgresql

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// writeFile replaces dir/name: after a crash it holds the old or the new
// content, whole. It is durable when syncDir has followed.
func writeFile(dir, name, content string) (err error) {
	f, err := os.CreateTemp(dir, name+".tmp") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.WriteString(content); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, name))
}

// linkToNothing makes dir/name a symbolic link to /dev/null.
func linkToNothing(dir, name string) error {
	path := filepath.Join(dir, name)
	if to, err := os.Readlink(path); err == nil && to == os.DevNull {
		return nil
	}
	if err := removeFile(path); err != nil {
		return err
	}
	return os.Symlink(os.DevNull, path)
}

// removeFile is os.Remove that is content when there is none.
func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// syncDir makes what was renamed, made and removed in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
