package conf

import (
	"fmt"
	"regexp"
	"strconv"
)

// versionNumber skips the program's and the vendor's name; what follows the
// numbers (beta1, the packager's words) doesn't matter.
var versionNumber = regexp.MustCompile(`^(?:\S+ \([^)]*\) )?(\d+)(?:\.(\d+))?`)

// ParseVersion reads the output of "postgres -V" or the text of PG_VERSION.
func ParseVersion(s string) (major, minor int, err error) {
	m := versionNumber.FindStringSubmatch(s)
	if m == nil {
		return 0, 0, fmt.Errorf("no PostgreSQL version in %q", s)
	}
	if major, err = strconv.Atoi(m[1]); err != nil {
		return 0, 0, fmt.Errorf("PostgreSQL version in %q: %w", s, err)
	}
	if m[2] != "" {
		if minor, err = strconv.Atoi(m[2]); err != nil {
			return 0, 0, fmt.Errorf("PostgreSQL version in %q: %w", s, err)
		}
	}
	return major, minor, nil
}
