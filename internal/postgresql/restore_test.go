package postgresql

import "testing"

// PG-3.
func TestRestoreCommandsAreExpanded(t *testing.T) {
	for command, want := range map[string]string{
		"":                        "",
		"%d":                      "/data",
		"%%":                      "%",
		"%%d":                     "%d",
		"%%%d":                    "%/data",
		"%a":                      "%a",
		"100%":                    "100%",
		"tar -C %d -f a%%b %% %x": "tar -C /data -f a%b % %x",
	} {
		if got := expand(command, "/data"); got != want {
			t.Errorf("expand(%q) = %q, want %q", command, got, want)
		}
	}
}
