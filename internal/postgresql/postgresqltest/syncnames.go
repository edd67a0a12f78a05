package postgresqltest

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"stolon/internal/postgresql/conf"
	"stolon/internal/postgresql/wal"
)

// wanted is a synchronous_standby_names: the first of the names that are
// there, n of them, have to confirm.
type wanted struct {
	n     int
	names []string
}

func parseWanted(text string) wanted {
	names, err := conf.ParseSyncNames(text)
	if err != nil || len(names) == 0 {
		return wanted{}
	}
	w := wanted{n: 1, names: names}
	if head, _, ok := strings.Cut(text, "("); ok {
		words := strings.Fields(head)
		if n, err := strconv.Atoi(words[len(words)-1]); err == nil {
			w.n = n
		}
	}
	return w
}

func (w wanted) priority(name string) int { return slices.Index(w.names, name) + 1 }

// chosen returns the senders that are synchronous now, the most important
// first, and those that could be.
func (w wanted) chosen(senders []*sender) (sync, potential []*sender) {
	var listed []*sender
	for _, s := range senders {
		if w.priority(s.name) > 0 && s.streaming {
			listed = append(listed, s)
		}
	}
	slices.SortStableFunc(listed, func(a, b *sender) int { return cmp.Compare(w.priority(a.name), w.priority(b.name)) })
	n := min(w.n, len(listed))
	return listed[:n], listed[n:]
}

// confirmed is the position that everybody who has to has flushed.
func (w wanted) confirmed(senders []*sender) (wal.LSN, bool) {
	sync, _ := w.chosen(senders)
	if w.n == 0 || len(sync) < w.n {
		return 0, false
	}
	low := sync[0].flush
	for _, s := range sync {
		low = min(low, s.flush)
	}
	return low, true
}
