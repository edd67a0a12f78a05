package main

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stolon/internal/flagutil/flagtest"
)

func TestFlagsAreThoseOf017(t *testing.T) { flagtest.Check(t, command(io.Discard), "STPROXY") }

func TestBadCommandLines(t *testing.T) {
	cluster := []string{"--cluster-name", "c", "--store-backend", "etcdv3"}
	tests := []struct {
		args []string
		want string
	}{
		{nil, "cluster name required (--cluster-name)"},
		{append(cluster, "--tcp-keepalive-idle=-1"), "tcp keepalive idle value must be greater or equal to 0"},
		{append(cluster, "--tcp-keepalive-count=-1"), "tcp keepalive count value must be greater or equal to 0"},
		{append(cluster, "--tcp-keepalive-interval=-1"), "tcp keepalive interval value must be greater or equal to 0"},
		{append(cluster, "--hold-timeout=-1s"), "--hold-timeout must be 0 or more, such as 30s"},
		{append(cluster, "--lifeline-address", "0.0.0.0:7000"), "--lifeline-address 0.0.0.0:7000: sentinels must know one address"},
		{append(cluster, "--lifeline-address", "10.0.0.1:x:y"), "--lifeline-address 10.0.0.1:x:y: "},
		{append(cluster, "--lifeline-address", "192.0.2.1"), "--lifeline-address 192.0.2.1: listen"},
		{append(cluster, "--store-endpoints", "ftp://a"), "cannot create kv store: endpoints scheme must be http or https"},
		{append(cluster, "--metrics-listen-address", "nonsense"), "--metrics-listen-address nonsense"},
	}
	for _, tt := range tests {
		code, stderr := flagtest.Run(run).Stderr(t, tt.args...)
		if code != 1 || !strings.Contains(stderr, tt.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("stolon-proxy %q: exit code %d, stderr %q, want 1 and one line %q", tt.args, code, stderr, tt.want)
		}
	}
}

func TestKeepAlive(t *testing.T) {
	tests := []struct {
		o    options
		want net.KeepAliveConfig
	}{
		{options{}, net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1}},
		{options{idle: 1, count: 2, interval: 3}, net.KeepAliveConfig{Enable: true, Idle: time.Second, Count: 2, Interval: 3 * time.Second}},
	}
	for _, tt := range tests {
		if got := tt.o.keepAlive(); got != tt.want {
			t.Errorf("keepAlive = %+v, want %+v", got, tt.want)
		}
	}
}

func TestWithoutAStoreAProxyWaits(t *testing.T) {
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("topsecret"), 0o644); err != nil {
		t.Fatal(err)
	}
	log := flagtest.Run(run).WithoutStore(t, "proxy uid", "--port", "0", "--store-username", "u", "--store-password-file", password)
	if !strings.Contains(log, "chmod 0600") || strings.Contains(log, "topsecret") {
		t.Errorf("the log does not warn of a password that all can read, or has it: %s", log)
	}
}
