package flagutil

import (
	"strings"

	"stolon/internal/log"
	"stolon/internal/store/dial"
)

// A secretFile is the value of a flag that ends with -file and names a file
// with a secret. The secret itself can be given in the environment, in the
// variable of the flag without _FILE; there is no flag for it because everybody
// on a machine sees arguments.
type secretFile struct {
	File     string
	Secret   log.Secret // not hidden by package fmt in a field that is not exported
	Variable string     // that the secret may be in
}

// String, Set and Type implement pflag.Value.
func (s *secretFile) String() string         { return s.File }
func (s *secretFile) Set(value string) error { s.File = value; return nil }
func (s *secretFile) Type() string           { return "string" }

// fromEnv takes the secret from the environment; name is the flag's variable.
func (s *secretFile) fromEnv(name string, getenv func(string) string) {
	s.Variable = strings.TrimSuffix(name, "_FILE")
	s.Secret = log.Secret(getenv(s.Variable))
}

func (s *secretFile) password() dial.Password {
	return dial.Password{File: s.File, Value: s.Secret, Variable: s.Variable}
}
