// Package wal reads PostgreSQL's notation for write-ahead log positions,
// segments and timelines, and tells when two instances have gone different
// ways. It is pure.
//
// Start with LSN; Diverged (timeline.go) is the one decision here.
package wal

import (
	"fmt"
	"strconv"
	"strings"
)

// An LSN is a byte position in the write-ahead log.
type LSN uint64

// ParseLSN reads PostgreSQL's form, two hexadecimal halves: "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	h, errHi := parseHex32(hi)
	l, errLo := parseHex32(lo)
	if !ok || errHi != nil || errLo != nil {
		return 0, fmt.Errorf("LSN %q is not of the form X/X", s)
	}
	return LSN(h)<<32 | LSN(l), nil
}

// String writes PostgreSQL's form.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// parseHex32 takes hexadecimal digits and nothing else: no sign, no blank, no
// underscore.
func parseHex32(s string) (uint64, error) {
	for i := range len(s) {
		if !strings.ContainsRune("0123456789abcdefABCDEF", rune(s[i])) {
			return 0, fmt.Errorf("%q is not hexadecimal", s)
		}
	}
	return strconv.ParseUint(s, 16, 32)
}
