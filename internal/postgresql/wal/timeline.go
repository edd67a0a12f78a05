package wal

import (
	"fmt"
	"strconv"
	"strings"
)

// A HistoryEntry tells where the log left a timeline for its successor.
type HistoryEntry struct {
	Timeline    uint64
	SwitchPoint LSN
	Reason      string
}

// HistoryFileName names the history file of a timeline.
func HistoryFileName(timeline uint64) string {
	return fmt.Sprintf("%08X.history", uint32(timeline))
}

// ParseHistory reads the text of a history file: a line for each ancestor,
// oldest first.
func ParseHistory(text string) ([]HistoryEntry, error) {
	var out []HistoryEntry
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		number, rest := cutBlank(line)
		position, reason := cutBlank(rest)
		timeline, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("timeline history line %q: timeline %q is not a number", line, number)
		}
		switchPoint, err := ParseLSN(position)
		if err != nil {
			return nil, fmt.Errorf("timeline history line %q: %w", line, err)
		}
		if n := len(out); n > 0 && timeline <= out[n-1].Timeline {
			return nil, fmt.Errorf("timeline history line %q: timeline after %d", line, out[n-1].Timeline)
		}
		out = append(out, HistoryEntry{Timeline: timeline, SwitchPoint: switchPoint, Reason: reason})
	}
	return out, nil
}

func cutBlank(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimLeft(s[i:], " \t")
}

// Last returns the last n entries, or all when there are fewer.
func Last(entries []HistoryEntry, n int) []HistoryEntry {
	return entries[max(0, len(entries)-n):]
}

// A Branch is where an instance stands and how it came there.
type Branch struct {
	Timeline uint64
	Position LSN
	History  []HistoryEntry // at least the last entries, oldest first
}

// Diverged reports whether own holds WAL that followed does not have in its
// history, as far as numbers tell: two instances may both have created the
// same timeline at the same position (protocols.md K7), which this can't see.
func Diverged(followed, own Branch) bool {
	switch {
	case followed.Timeline < own.Timeline:
		return true
	case followed.Timeline == own.Timeline:
		if own.Timeline <= 1 {
			return false
		}
		theirs, ok := switchPoint(followed.History, own.Timeline-1)
		mine, ok2 := switchPoint(own.History, own.Timeline-1)
		return ok && ok2 && theirs != mine
	}
	left, ok := switchPoint(followed.History, own.Timeline)
	return ok && left < own.Position
}

func switchPoint(history []HistoryEntry, timeline uint64) (LSN, bool) {
	for _, e := range history {
		if e.Timeline == timeline {
			return e.SwitchPoint, true
		}
	}
	return 0, false
}
