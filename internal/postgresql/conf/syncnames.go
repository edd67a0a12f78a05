package conf

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// SyncNames is the text of synchronous_standby_names that waits for all the
// standbys with the DB UIDs and for all others by their names; "" when there
// are none.
func SyncNames(dbUIDs, others []string) string {
	var names []string
	for _, uid := range dbUIDs {
		names = append(names, ApplicationName(uid))
	}
	names = append(names, others...)
	switch len(names) {
	case 0:
		return ""
	case 1:
		return names[0]
	}
	return fmt.Sprintf("%d (%s)", len(names), strings.Join(names, ","))
}

// ParseSyncNames returns the names in a synchronous_standby_names, quoted ones
// as they stand there.
func ParseSyncNames(s string) ([]string, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return nil, nil
	}
	head, list, brackets := cutOutsideQuotes(s, '(')
	if brackets {
		list, rest, closed := cutOutsideQuotes(list, ')')
		if !closed || strings.TrimSpace(rest) != "" {
			return nil, errors.New("synchronous standby string has number but lacks brackets")
		}
		words := strings.Fields(head)
		if len(words) == 2 && (strings.EqualFold(words[0], "FIRST") || strings.EqualFold(words[0], "ANY")) {
			words = words[1:]
		}
		if len(words) != 1 || !isNumber(words[0]) {
			return nil, fmt.Errorf("synchronous standby string %q: %q before the brackets is not a number", s, strings.TrimSpace(head))
		}
		return splitNames(list)
	}
	if words := strings.Fields(s); len(words) > 1 && isNumber(words[0]) {
		return nil, errors.New("synchronous standby string has number but lacks brackets")
	}
	return splitNames(head)
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

func splitNames(list string) ([]string, error) {
	var names []string
	for more := true; more; {
		var name string
		name, list, more = cutOutsideQuotes(list, ',')
		name = strings.TrimSpace(name)
		if name == "" {
			return nil, errors.New("synchronous standby string has an empty name")
		}
		names = append(names, name)
	}
	return names, nil
}

// cutOutsideQuotes is strings.Cut that takes no notice of what is within
// double quotes.
func cutOutsideQuotes(s string, sep byte) (before, after string, found bool) {
	quoted := false
	for i := range len(s) {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}
