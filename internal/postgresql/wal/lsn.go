// Package wal reads PostgreSQL's notation for write-ahead log positions,
// segments and timelines. It is pure.
package wal

import "fmt"

// An LSN is a byte position in the write-ahead log.
type LSN uint64

// ParseLSN reads PostgreSQL's form, two hexadecimal halves: "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	var hi, lo uint32
	var rest string
	if n, _ := fmt.Sscanf(s, "%X/%X%s", &hi, &lo, &rest); n != 2 {
		return 0, fmt.Errorf("LSN %q is not of the form X/X", s)
	}
	return LSN(hi)<<32 | LSN(lo), nil
}

// String writes PostgreSQL's form.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }
