package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"stolon/internal/keeper"
	"stolon/internal/postgresql/conf"
)

// login is the flags of one role.
type login struct {
	kind                         string // "repl" or "su", as in the flags
	name                         string // "replication user" or "superuser", as in messages
	user, method, password, file string
	cert, key                    string
}

func (l *login) add(fs *pflag.FlagSet, kind, name string) {
	l.kind, l.name = kind, name
	fs.StringVar(&l.method, "pg-"+kind+"-auth-method", "md5", "how PostgreSQL authenticates the "+name+": md5, scram-sha-256, cert (see --pg-"+kind+"-sslcert) or trust")
	def := "required"
	if kind == "su" {
		def = "default the user that runs the keeper"
	}
	fs.StringVar(&l.user, "pg-"+kind+"-username", "", "name of the "+name+" ("+def+"); the same on all keepers")
	fs.StringVar(&l.password, "pg-"+kind+"-password", "", "password of the "+name+", which other users of this machine can see: better use the file")
	fs.StringVar(&l.file, "pg-"+kind+"-passwordfile", "", "file with the password of the "+name+"; a changed one is read and applied")
	fs.StringVar(&l.cert, "pg-"+kind+"-sslcert", "", "file with the certificate, PEM, that this keeper shows other instances as the "+name+"; its common name must be the user's")
	fs.StringVar(&l.key, "pg-"+kind+"-sslkey", "", "file with the key of --pg-"+kind+"-sslcert, PEM, mode 0600")
}

// defaultUser takes the operating system's user for an unnamed superuser.
func (l *login) defaultUser() error {
	if l.user != "" {
		return nil
	}
	if u, err := user.Current(); err == nil {
		l.user = u.Username
	} else if l.user = os.Getenv("USER"); l.user == "" {
		return fmt.Errorf("cannot get current user: %w; name the superuser with --pg-su-username", err)
	}
	return nil
}

func (l *login) keeper() keeper.Login {
	return keeper.Login{User: l.user, Password: l.password, Method: keeper.AuthMethod(l.method), Cert: l.cert, Key: l.key}
}

func (l *login) trust() bool { return l.method == string(keeper.Trust) }

func (l *login) certified() bool { return l.method == string(keeper.Cert) }

func (l *login) knownMethod() bool {
	return l.trust() || l.certified() || l.method == string(keeper.MD5) || l.method == string(keeper.ScramSHA256)
}

func (l *login) checkTrust(log *zap.Logger) error {
	if !l.trust() {
		return nil
	}
	log.Warn("not utilizing a password for the "+l.name+": whoever reaches PostgreSQL can be it", zap.String("flag", "--pg-"+l.kind+"-auth-method"))
	if l.password != "" || l.file != "" {
		return fmt.Errorf("can not utilize --pg-%[1]s-auth-method trust together with --pg-%[1]s-password or --pg-%[1]s-passwordfile", l.kind)
	}
	return nil
}

func (l *login) checkPassword() error {
	switch {
	case l.trust():
		return nil
	case l.password == "" && l.file == "" && !l.certified():
		return fmt.Errorf("one of --pg-%[1]s-password or --pg-%[1]s-passwordfile is required", l.kind)
	case l.password != "" && l.file != "":
		return fmt.Errorf("only one of --pg-%[1]s-password or --pg-%[1]s-passwordfile must be provided", l.kind)
	}
	return nil
}

func (l *login) readFile(log *zap.Logger) error {
	if l.file == "" {
		return nil
	}
	what := map[string]string{"repl": "pg replication user", "su": "pg superuser"}[l.kind]
	fi, err := os.Stat(l.file)
	if err == nil {
		if fi.Mode().Perm()&0o077 != 0 {
			log.Warn("password file permissions are too open: chmod 0600 it", zap.String("file", l.file), zap.Stringer("mode", fi.Mode().Perm()))
		}
		var b []byte
		b, err = os.ReadFile(l.file)
		l.password = string(b)
	}
	if err != nil {
		return fmt.Errorf("cannot read %s password: %w", what, err)
	}
	if l.password == "" {
		return fmt.Errorf("cannot read %s password: --pg-%s-passwordfile %s is empty", what, l.kind, l.file)
	}
	return nil
}

func (l *login) trim(log *zap.Logger) error {
	if l.trust() {
		return nil
	}
	trimmed := strings.TrimRight(l.password, "\r\n")
	if trimmed != l.password {
		log.Warn(l.name + " password contain trailing new line, removing")
		l.password = trimmed
		if trimmed == "" {
			return fmt.Errorf("%s password is empty after removing trailing new line", l.name)
		}
	}
	return nil
}

// checkWALDir: the directory is there, because a missing one is a disk that is
// not mounted.
func (o *options) checkWALDir() error {
	if o.walDir == "" {
		return nil
	}
	abs, err := filepath.Abs(o.walDir)
	if err != nil {
		return fmt.Errorf("--wal-dir: %w", err)
	}
	o.walDir = abs
	fi, err := os.Stat(abs)
	switch {
	case err != nil:
		return fmt.Errorf("--wal-dir: %w; make it, and let the user who runs the keeper own it", err)
	case !fi.IsDir():
		return fmt.Errorf("--wal-dir %s is not a directory", abs)
	case abs == o.dataDir || strings.HasPrefix(abs, filepath.Join(o.dataDir, "postgres")):
		return fmt.Errorf("--wal-dir %s lies where the data is; name a directory outside of %s", abs, filepath.Join(o.dataDir, "postgres"))
	case unix.Access(abs, unix.W_OK|unix.X_OK) != nil:
		return fmt.Errorf("--wal-dir %s can't be written by user %d, who runs the keeper; chown it", abs, os.Geteuid())
	}
	return nil
}

func (o *options) needDataDir() error {
	if o.dataDir == "" {
		return errors.New("data dir required (--data-dir)")
	}
	return nil
}

// makeDataDir makes the data directory, or finds out now what PostgreSQL would
// refuse later and less plainly.
func (o *options) makeDataDir() error {
	abs, err := filepath.Abs(o.dataDir)
	if err != nil {
		return fmt.Errorf("cannot create data dir: %w", err)
	}
	o.dataDir = abs
	if err := os.MkdirAll(o.dataDir, 0o700); err != nil {
		return fmt.Errorf("cannot create data dir: %w (--data-dir)", err)
	}
	owner, mode, err := ownerAndMode(o.dataDir)
	if err != nil {
		return fmt.Errorf("cannot create data dir: %w (--data-dir)", err)
	}
	// A volume may belong to root and be writable for our group.
	mayWrite := owner == 0 && unix.Access(o.dataDir, unix.W_OK|unix.X_OK) == nil
	switch {
	case owner != os.Geteuid() && !mayWrite:
		return fmt.Errorf("wrong data dir owner or mode: %s (--data-dir) belongs to user %d, and user %d runs the keeper; chown it", o.dataDir, owner, os.Geteuid())
	case owner == os.Geteuid() && mode.Perm()&0o700 != 0o700, mode.Perm()&0o002 != 0 && mode&fs.ModeSticky == 0:
		return fmt.Errorf("wrong data dir owner or mode: %s (--data-dir) has mode %v, which must let its owner in and let nobody else write; chmod 0700 it", o.dataDir, mode)
	}
	pgdata := filepath.Join(o.dataDir, "postgres")
	switch owner, mode, err := ownerAndMode(pgdata); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("data dir (--data-dir): %w", err)
	case owner != os.Geteuid() || mode.Perm()&0o027 != 0 || mode.Perm()&0o700 != 0o700:
		return fmt.Errorf("wrong data dir owner or mode: %s (in --data-dir) belongs to user %d and has mode %v; PostgreSQL wants it to belong to user %d with mode 0700 or 0750", pgdata, owner, mode, os.Geteuid())
	}
	return nil
}

func ownerAndMode(path string) (uid int, mode fs.FileMode, err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return 0, 0, err
	}
	return int(fi.Sys().(*syscall.Stat_t).Uid), fi.Mode(), nil
}

// checkAddresses fills in the advertised address, and warns of one that others
// may not reach.
func (o *options) checkAddresses(ctx context.Context, log *zap.Logger) error {
	if o.listenAddress == "" {
		return errors.New("--pg-listen-address is required")
	}
	if o.advertiseAddress == "" {
		o.advertiseAddress = o.listenAddress
	}
	if o.advertPort == "" {
		o.advertPort = o.port
	}
	if o.advertiseAddress == "*" {
		return errors.New("--pg-listen-address * needs a --pg-advertise-address at which others reach this host")
	}
	ips := []string{o.advertiseAddress}
	if net.ParseIP(o.advertiseAddress) == nil {
		var err error
		if ips, err = net.DefaultResolver.LookupHost(ctx, o.advertiseAddress); err != nil {
			log.Warn("provided --pg-advertise-address can't be resolved", zap.String("address", o.advertiseAddress), zap.Error(err))
			return nil
		}
		log.Warn("provided --pg-advertise-address is not an ip address but a hostname, which others may resolve differently: better use an ip address", zap.String("address", o.advertiseAddress))
	}
	for _, s := range ips {
		if ip := net.ParseIP(s); ip != nil && (ip.IsLoopback() || ip.IsUnspecified()) {
			log.Warn("provided --pg-advertise-address is a loopback ip: other hosts will not reach it", zap.String("address", o.advertiseAddress), zap.String("ip", s))
			break
		}
	}
	return nil
}

// checkLogins checks and reads what the flags say of both roles.
func (o *options) checkLogins(log *zap.Logger) error {
	if !o.repl.knownMethod() {
		return errors.New("--pg-repl-auth-method must be one of: md5, scram-sha-256, cert, trust")
	}
	if o.repl.user == "" {
		return errors.New("--pg-repl-username is required")
	}
	if err := o.repl.checkTrust(log); err != nil {
		return err
	}
	if err := o.su.checkTrust(log); err != nil {
		return err
	}
	if err := o.repl.checkPassword(); err != nil {
		return err
	}
	if !o.su.knownMethod() {
		return errors.New("--pg-su-auth-method must be one of: md5, scram-sha-256, cert, trust")
	}
	if err := o.su.checkPassword(); err != nil {
		return err
	}
	if err := errors.Join(o.repl.checkCert(o.tls), o.su.checkCert(o.tls)); err != nil {
		return err
	}
	if err := o.su.checkPeer(); err != nil {
		return err
	}
	if err := o.repl.readFile(log); err != nil {
		return err
	}
	if err := o.su.readFile(log); err != nil {
		return err
	}
	if err := o.su.trim(log); err != nil {
		return err
	}
	if err := o.repl.trim(log); err != nil {
		return err
	}
	if o.su.user != o.repl.user {
		return nil
	}
	log.Warn("superuser name and replication user name are the same. Different users are suggested.")
	if o.su.method != o.repl.method {
		return errors.New("do not support different auth methods when utilizing superuser for replication.")
	}
	if o.su.password != o.repl.password {
		return errors.New("provided superuser name and replication user name are the same but provided passwords are different")
	}
	return nil
}

// checkPeer: by the socket a superuser without a password is whoever runs
// PostgreSQL.
func (l *login) checkPeer() error {
	if !l.certified() || l.password != "" || l.file != "" {
		return nil
	}
	if u, err := user.Current(); err != nil || u.Username != l.user {
		return errors.New("--pg-su-auth-method cert without a password needs a superuser (--pg-su-username) with the name of the user who runs the keeper; give --pg-su-passwordfile")
	}
	return nil
}

// passwords reads the files again.
func (o *options) passwords() (superuser, replication string, err error) {
	su, repl, silent := o.su, o.repl, zap.NewNop()
	for _, l := range []*login{&su, &repl} {
		if err := errors.Join(l.readFile(silent), l.trim(silent)); err != nil {
			return "", "", err
		}
	}
	if su.user == repl.user && su.password != repl.password {
		return "", "", errors.New("superuser and replication user are the same, but their new passwords are not")
	}
	return su.password, repl.password, nil
}

var programs = []string{"postgres", "initdb", "pg_basebackup", "pg_rewind"}

// checkPrograms finds out now what would otherwise fail in the middle of a
// failover.
func (o *options) checkPrograms(ctx context.Context, log *zap.Logger) error {
	where := cmp.Or(o.binPath, "$PATH")
	for _, name := range programs {
		if _, err := lookPath(o.binPath, name); err != nil {
			return fmt.Errorf("PostgreSQL's program %s is not in %s; --pg-bin-path must name the directory with the programs of PostgreSQL 13 to 18", name, where)
		}
	}
	instance, err := o.instance(log)
	if err != nil {
		return err
	}
	defer instance.Close()
	major, _, err := instance.Version(ctx)
	if err != nil {
		return fmt.Errorf("cannot tell the version of PostgreSQL in %s (--pg-bin-path): %w", where, err)
	}
	if err := conf.CheckVersion(major); err != nil {
		return fmt.Errorf("%w (--pg-bin-path)", err)
	}
	return nil
}

// lookPath finds a program without running it.
func lookPath(dir, name string) (string, error) {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	if dir != "" {
		dirs = []string{dir}
	}
	for _, d := range dirs {
		path := filepath.Join(d, name)
		if fi, err := os.Stat(path); err == nil && !fi.IsDir() && fi.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", os.ErrNotExist
}

var keeperUID = regexp.MustCompile(`^[a-z0-9_]+$`)

func checkUID(uid string) error {
	if uid != "" && !keeperUID.MatchString(uid) {
		return fmt.Errorf("keeper uid %q not valid. It can contain only lower-case letters, numbers and the underscore character", uid)
	}
	return nil
}
