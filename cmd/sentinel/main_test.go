package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stolon/internal/flagutil/flagtest"
)

func TestFlagsAreThoseOf017(t *testing.T) { flagtest.Check(t, command(io.Discard), "STSENTINEL") }

func specFile(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "spec.json")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestBadCommandLines(t *testing.T) {
	cluster := []string{"--cluster-name", "c", "--store-backend", "etcdv3"}
	spec := func(content string) []string {
		return append(cluster, "--initial-cluster-spec", specFile(t, content))
	}
	tests := []struct {
		args []string
		want string
	}{
		{nil, "cluster name required (--cluster-name)"},
		{append(cluster, "--lifeline-address", "0.0.0.0:7000"), "--lifeline-address 0.0.0.0:7000: sentinels must know one address"},
		{append(cluster, "--lifeline-address", "10.0.0.1:x:y"), "--lifeline-address 10.0.0.1:x:y: "},
		{append(cluster, "--lifeline-address", "192.0.2.1"), "--lifeline-address 192.0.2.1: listen"},
		{append(cluster, "--store-endpoints", "http://a:1,https://b:1"), "cannot create sentinel: cannot create kv store: all the endpoints must have the same scheme"},
		{append(cluster, "--metrics-listen-address", "nonsense"), "--metrics-listen-address nonsense"},
		{append(cluster, "--initial-cluster-spec", "/nowhere/x"), "cannot create sentinel: cannot read provided initial cluster config file: open /nowhere/x"},
		{spec(""), "cannot create sentinel: cannot parse provided initial cluster config: unexpected end of JSON input"},
		{spec("null"), "cannot create sentinel: cannot parse provided initial cluster config: "},
		{spec(`{"sleepInterval":5}`), "cannot create sentinel: cannot parse provided initial cluster config: sleepInterval: "},
		{spec("{}"), "cannot create sentinel: invalid initial cluster: initMode undefined"},
	}
	for _, tt := range tests {
		code, stderr := flagtest.Run(run).Stderr(t, tt.args...)
		if code != 1 || !strings.Contains(stderr, tt.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("stolon-sentinel %q: exit code %d, stderr %q, want 1 and one line %q", tt.args, code, stderr, tt.want)
		}
	}
}

func TestWithoutAStoreASentinelWaits(t *testing.T) {
	flagtest.Run(run).WithoutStore(t, "\tERROR\t", "--initial-cluster-spec", specFile(t, `{"initMode":"new"}`), "--metrics-listen-address", "127.0.0.1:0")
}
