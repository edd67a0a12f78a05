package postgresql

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"stolon/internal/postgresql/wal"
)

// control is what is read of global/pg_control.
type control struct {
	systemID           string
	state              ControlState
	checkpoint         wal.LSN
	checkpointTimeline uint64
}

// Versions of pg_control that parseControl knows; the fields that it reads lie
// at the same places in all of them.
const (
	oldestControlVersion = 1300 // PostgreSQL 13
	newestControlVersion = 1800 // PostgreSQL 18
	controlBytes         = 56   // as far as parseControl looks
)

func readControl(path string) (control, error) {
	f, err := os.Open(path)
	if err != nil {
		return control{}, err
	}
	defer f.Close()
	// PostgreSQL may be writing it: two readings that agree were not torn.
	var last []byte
	for range 100 {
		b := make([]byte, controlBytes)
		if _, err := f.ReadAt(b, 0); err != nil {
			if err == io.EOF {
				return control{}, fmt.Errorf("%s is too short", path)
			}
			return control{}, err
		}
		if bytes.Equal(b, last) {
			c, err := parseControl(b)
			if err != nil {
				return control{}, fmt.Errorf("%s: %w", path, err)
			}
			return c, nil
		}
		last = b
	}
	return control{}, fmt.Errorf("%s changes too fast to be read", path)
}

// parseControl reads the beginning of ControlFileData, in the byte order of
// this machine, as PostgreSQL does.
func parseControl(b []byte) (control, error) {
	if len(b) < controlBytes {
		return control{}, fmt.Errorf("%d bytes are too few for pg_control", len(b))
	}
	order := binary.NativeEndian
	if v := order.Uint32(b[8:]); v < oldestControlVersion || v > newestControlVersion {
		return control{}, fmt.Errorf("pg_control version %d is not one of PostgreSQL 13 to 18", v)
	}
	return control{
		systemID:           strconv.FormatUint(order.Uint64(b), 10),
		state:              controlState(order.Uint32(b[16:])),
		checkpoint:         wal.LSN(order.Uint64(b[32:])),
		checkpointTimeline: uint64(order.Uint32(b[48:])),
	}, nil
}

// controlState is PostgreSQL's enum DBState.
func controlState(n uint32) ControlState {
	switch n {
	case 1:
		return ShutDown
	case 2:
		return ShutDownInRecovery
	case 4:
		return InCrashRecovery
	case 5:
		return InArchiveRecovery
	case 6:
		return InProduction
	}
	return OtherControlState
}

// needed are the lines of pg_controldata that hold what a standby must have at
// least, and the parameters that they are of.
var needed = map[string]string{
	"max_connections setting":      "max_connections",
	"max_worker_processes setting": "max_worker_processes",
	"max_wal_senders setting":      "max_wal_senders",
	"max_prepared_xacts setting":   "max_prepared_transactions",
	"max_locks_per_xact setting":   "max_locks_per_transaction",
}

// Needed returns what a standby must have at least of the parameters that it
// may not have lower than its primary, as of what it has replayed. Their places
// in pg_control differ between the versions, so PostgreSQL's own program reads it.
func (i *Instance) Needed(ctx context.Context) (map[string]int, error) {
	out := map[string]int{}
	torn := false
	err := i.run(ctx, program{name: "pg_controldata", args: []string{"-D", i.o.DataDir}, env: []string{"LC_ALL=C"}, line: func(line string) {
		key, value, _ := strings.Cut(line, ":")
		torn = torn || strings.Contains(key, "WARNING") // read while it was written
		if name, ok := needed[key]; ok {
			if n, err := strconv.Atoi(strings.TrimSpace(value)); err == nil {
				out[name] = n
			}
		}
	}})
	switch {
	case err != nil:
		return nil, err
	case torn || len(out) != len(needed):
		return nil, errors.New("pg_controldata doesn't tell what a standby needs")
	}
	return out, nil
}
