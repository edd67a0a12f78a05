package cluster

import (
	"fmt"
	"strings"
	"time"
)

// Duration is a time.Duration whose JSON is a Go duration string, such as
// "1m30s". Reading also takes the bare number 0.
type Duration struct{ time.Duration }

// MarshalText writes Go's form: "5s", "5m0s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalJSON takes a quoted Go duration, or anything that is one once its
// quotes are gone.
func (d *Duration) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	v, err := time.ParseDuration(strings.Trim(string(b), `"`))
	if err != nil {
		return fmt.Errorf("duration: %w", err)
	}
	d.Duration = v
	return nil
}
