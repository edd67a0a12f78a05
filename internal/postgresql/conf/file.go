package conf

import (
	"maps"
	"slices"
	"strings"
)

// File is the text of postgresql.conf: a line for each parameter, sorted, then
// those of recovery, sorted, which win over a parameter of the same name.
func File(c Config) string {
	params, recovery := c.Parameters, map[string]string{}
	if c.Recovery != nil {
		recovery = c.Recovery.Parameters()
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(params)) {
		if _, ok := recovery[name]; !ok {
			b.WriteString(line(name, params[name]))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(recovery)) {
		b.WriteString(line(name, recovery[name]))
	}
	return b.String()
}

// HBAFile is the text of pg_hba.conf.
func HBAFile(c Config) string {
	var b strings.Builder
	for _, l := range c.HBA {
		b.WriteString(l + "\n")
	}
	return b.String()
}

func line(name, value string) string { return name + " = '" + fileEscaper.Replace(value) + "'\n" }

// fileEscaper writes a value so that PostgreSQL's configuration file reader,
// which takes backslash escapes and has no strings over several lines, gives
// it back as it was.
var fileEscaper = strings.NewReplacer(
	`\`, `\\`, `'`, `''`, "\n", `\n`, "\r", `\r`, "\t", `\t`, "\f", `\f`, "\b", `\b`,
)
