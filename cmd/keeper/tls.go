package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"stolon/internal/keeper"
	"stolon/internal/postgresql/conf"
)

// tls is how connections to other instances are secured.
type tls struct {
	mode, rootCert string
}

func (t *tls) add(fs *pflag.FlagSet) {
	fs.StringVar(&t.mode, "pg-sslmode", "prefer", "sslmode of this keeper's connections to other instances, as libpq's: "+strings.Join(sslModes, ", ")+"; from require on, pg_hba.conf lets the superuser and the replication user in over TLS only")
	fs.StringVar(&t.rootCert, "pg-sslrootcert", "", "file with the certificates, PEM, that those of other instances are verified with")
}

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

// check makes paths absolute too: PostgreSQL reads the files as well.
func (t *tls) check() error {
	if !slices.Contains(sslModes, t.mode) {
		return fmt.Errorf("--pg-sslmode must be one of: %s", strings.Join(sslModes, ", "))
	}
	if strings.HasPrefix(t.mode, "verify-") && t.rootCert == "" {
		return fmt.Errorf("--pg-sslmode %s needs --pg-sslrootcert", t.mode)
	}
	return readable("--pg-sslrootcert", &t.rootCert)
}

// checkCert checks the role's certificate.
func (l *login) checkCert(t tls) error {
	cert, key := "--pg-"+l.kind+"-sslcert", "--pg-"+l.kind+"-sslkey"
	if err := errors.Join(readable(cert, &l.cert), readable(key, &l.key)); err != nil {
		return err
	}
	switch {
	case (l.cert == "") != (l.key == ""):
		return fmt.Errorf("%s and %s belong together", cert, key)
	case l.method == string(keeper.Cert) && l.cert == "":
		return fmt.Errorf("--pg-%s-auth-method cert needs %s and %s", l.kind, cert, key)
	case l.cert == "":
		return nil
	case !(conf.TLS{Mode: t.mode}).Required():
		return fmt.Errorf("%s needs --pg-sslmode require, verify-ca or verify-full", cert)
	}
	fi, err := os.Stat(l.key)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	// As libpq has it: root's may be read by a group.
	open := fi.Mode().Perm() & 0o077
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid == 0 && os.Geteuid() != 0 {
		open = fi.Mode().Perm() & 0o037
	}
	if open != 0 {
		return fmt.Errorf("%s %s has mode %v, which others can read; chmod 0600 it", key, l.key, fi.Mode().Perm())
	}
	return nil
}

// readable makes the path absolute and opens the file.
func readable(flag string, path *string) error {
	if *path == "" {
		return nil
	}
	abs, err := filepath.Abs(*path)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	f, err := os.Open(abs)
	if err != nil {
		return fmt.Errorf("%s: %w", flag, err)
	}
	*path = abs
	return f.Close()
}
