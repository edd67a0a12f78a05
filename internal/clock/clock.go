// Package clock is the only clock by which intervals that matter to safety
// are measured: CLOCK_BOOTTIME, which goes on while a machine sleeps, unlike
// the monotonic clock inside time.Time (protocols.md C3).
package clock

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A Clock tells the time since some fixed but unknown moment. Readings of two
// clocks, or of two machines, are never compared.
type Clock func() time.Duration

// Boot reads CLOCK_BOOTTIME.
func Boot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(fmt.Sprintf("clock: CLOCK_BOOTTIME: %v", err))
	}
	return time.Duration(ts.Nano())
}
