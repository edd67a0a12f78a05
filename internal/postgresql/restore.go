package postgresql

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Restore replaces what is in the data directory, which may be half an attempt,
// by what the shell command restores there. %d in the command is the data
// directory, %% is %. progress is told lines worth logging.
func (i *Instance) Restore(ctx context.Context, command string, progress func(string)) error {
	if err := i.stopped("restore"); err != nil {
		return err
	}
	if err := i.remove(ctx, i.o.DataDir); err != nil {
		return err
	}
	if err := os.Mkdir(i.o.DataDir, 0o700); err != nil {
		return err
	}
	var told time.Time
	if err := i.run(ctx, program{
		name: "/bin/sh",
		args: []string{"-c", expand(command, i.o.DataDir)},
		line: func(line string) {
			if progress != nil && time.Since(told) >= progressEvery {
				told = time.Now()
				progress(line)
			}
		},
	}); err != nil {
		return err
	}
	// PostgreSQL refuses a directory that others can read.
	if err := os.Chmod(i.o.DataDir, 0o700); err != nil {
		return err
	}
	complete, err := initialized(i.o.DataDir)
	if err != nil {
		return err
	}
	if !complete {
		return fmt.Errorf("it ended well, but %s is no complete data directory", i.o.DataDir)
	}
	return syncDir(filepath.Dir(i.o.DataDir))
}

// expand puts the data directory for %d, and % for %%.
func expand(command, dir string) string {
	var out strings.Builder
	for {
		before, after, found := strings.Cut(command, "%")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		switch {
		case strings.HasPrefix(after, "d"):
			out.WriteString(dir)
			after = after[1:]
		case strings.HasPrefix(after, "%"):
			out.WriteByte('%')
			after = after[1:]
		default:
			out.WriteByte('%')
		}
		command = after
	}
}
