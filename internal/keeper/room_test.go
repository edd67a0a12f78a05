package keeper

import (
	"testing"

	"stolon/internal/postgresql"
)

func TestACopyFindsRoom(t *testing.T) {
	const mb = 1000 * 1000
	for _, tt := range []struct {
		name         string
		s            postgresql.Space
		withoutAside bool
		removeFirst  bool
		why          string
	}{
		{"beside the old data", postgresql.Space{Needed: 10 * mb, Free: 10 * mb, Own: 5 * mb}, false, false, ""},
		{"beside it, though it may be removed", postgresql.Space{Needed: 10 * mb, Free: 10 * mb, Own: 5 * mb}, true, false, ""},
		{"not without leave to remove it", postgresql.Space{Path: "/d", Needed: 10 * mb, Free: 9 * mb, Own: 5 * mb}, false, false,
			"not copying: the copy needs 10.0 MB beside the old data, and /d has 9.0 MB free; make room there, or start the keeper with --resync-without-aside, which removes the old data (5.0 MB) before the copy is there"},
		{"in its place", postgresql.Space{Needed: 10 * mb, Free: 5 * mb, Own: 5 * mb}, true, true, ""},
		{"nowhere", postgresql.Space{Path: "/d", Needed: 10 * mb, Free: 4 * mb, Own: 5 * mb}, true, false,
			"not copying: the copy needs 10.0 MB beside the old data, and /d has 4.0 MB free; make room there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			removeFirst, why := room(tt.s, tt.withoutAside)
			if removeFirst != tt.removeFirst || why != tt.why {
				t.Errorf("room(%+v, %t) = %t, %q, want %t, %q", tt.s, tt.withoutAside, removeFirst, why, tt.removeFirst, tt.why)
			}
		})
	}
}
