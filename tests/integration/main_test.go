//go:build integration

// Package integration tests the programs with real PostgreSQL and real etcd,
// from outside: by their flags, the store, SQL and what they log. Each test
// names the scenarios of compat/scenarios.md that it covers.
//
// ./test integration builds everything and runs this package as an ordinary
// user, because PostgreSQL refuses to run as root. Start with harness_test.go.
package integration

import (
	"os"
	"path/filepath"
	"testing"
)

// programs under test, by environment so that others can be tried.
var programs = struct{ keeper, sentinel, proxy, ctl, pgbin string }{
	keeper:   program("STKEEPER_BIN", "stolon-keeper"),
	sentinel: program("STSENTINEL_BIN", "stolon-sentinel"),
	proxy:    program("STPROXY_BIN", "stolon-proxy"),
	ctl:      program("STCTL_BIN", "stolonctl"),
	pgbin:    os.Getenv("PGBIN"),
}

func program(env, name string) string {
	if p := os.Getenv(env); p != "" {
		return p
	}
	return filepath.Join("..", "..", "bin", name)
}

// needOrdinaryUser keeps a test from failing in obscure ways as root.
func needOrdinaryUser(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Fatal("these tests can't run as root, PostgreSQL refuses to: use ./test integration")
	}
}
