package dial

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"stolon/internal/log"
)

// A Password is a user's, in a file that may change or given as it is.
type Password struct {
	File     string     // --store-password-file
	Value    log.Secret // of the environment
	Variable string     // where Value comes from
}

// Given reports whether there is one.
func (p Password) Given() bool { return p.File != "" || p.Value != "" }

// Source names the place to look at.
func (p Password) Source() string {
	if p.File != "" {
		return "--store-password-file " + p.File
	}
	return p.Variable
}

// Check reports why a user has no password, or not one.
func (p Password) Check(user string) error {
	switch {
	case user == "" && p.Given():
		return fmt.Errorf("a password for the store is given (%s) without --store-username", p.Source())
	case p.File != "" && p.Value != "":
		return fmt.Errorf("only one of --store-password-file and %s may be given", p.Variable)
	case user != "" && !p.Given():
		return errors.New("--store-username is given without a password; give --store-password-file")
	}
	return nil
}

// Read returns the password, of a file what it holds now. It ends with the
// file's last line, as editors write it.
func (p Password) Read() (log.Secret, error) {
	if p.File == "" {
		return p.Value, nil
	}
	b, err := os.ReadFile(p.File)
	if err != nil {
		return "", fmt.Errorf("--store-password-file: %w", err)
	}
	password := strings.TrimRight(string(b), "\r\n")
	if password == "" {
		return "", fmt.Errorf("--store-password-file %s holds no password", p.File)
	}
	return log.Secret(password), nil
}
