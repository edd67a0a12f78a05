package flagutil_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"stolon/internal/flagutil"
)

func env(m map[string]string) func(string) string { return func(k string) string { return m[k] } }

func TestFlagsFromTheEnvironment(t *testing.T) {
	parse := func(vars map[string]string, args ...string) (flagutil.Common, *pflag.FlagSet, string, error) {
		var c flagutil.Common
		var out bytes.Buffer
		fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
		fs.SetOutput(&out)
		c.Add(fs)
		c.AddDaemon(fs)
		err := flagutil.FromEnv(fs, "STKEEPER", env(vars))
		if err == nil {
			err = fs.Parse(args)
		}
		return c, fs, out.String(), err
	}
	c, fs, out, err := parse(map[string]string{"STKEEPER_CLUSTER_NAME": "a", "STKEEPER_STORE_TIMEOUT": "1m", "STKEEPER_STORE_PREFIX": "", "STKEEPER_LOG_COLOR": "false", "STKEEPER_DEBUG": "1", "STPROXY_LOG_LEVEL": "error"}, "--cluster-name=b")
	if err != nil || c.ClusterName != "b" || c.StoreTimeout != time.Minute || c.StorePrefix != "stolon/cluster" || !c.Debug || c.LogLevel != "info" {
		t.Errorf("got %+v, %v", c, err)
	}
	if !fs.Changed("log-color") || fs.Changed("store-prefix") {
		t.Errorf("a variable counts as given, an empty one doesn't: log-color %t, store-prefix %t", fs.Changed("log-color"), fs.Changed("store-prefix"))
	}
	if out != "" {
		t.Errorf("a deprecated flag by environment is told of: %s", out)
	}
	if _, _, out, err := parse(nil, "--debug"); err != nil || out != "Flag --debug has been deprecated, use --log-level=debug instead\n" {
		t.Errorf("--debug: %q, %v", out, err)
	}
	_, _, _, err = parse(map[string]string{"STKEEPER_LOG_COLOR": "x", "STKEEPER_STORE_TIMEOUT": "5"})
	if err == nil || !strings.HasPrefix(err.Error(), `invalid value "5" for STKEEPER_STORE_TIMEOUT: `) {
		t.Errorf("of bad values the last by flag name is told: %v", err)
	}
}

func TestCommonCheck(t *testing.T) {
	tests := []struct{ name, backend, want string }{
		{"", "", "cluster name required"},
		{"c", "", "store backend type required"},
		{"c", "x", `Unknown store backend: "x"`},
		{"c", "etcdv3", ""},
		{"c", "etcdv2", "etcdv3"},
		{"c", "etcd", "etcdv3"},
		{"c", "consul", ""},
		{"c", "kubernetes", "not supported"},
	}
	for _, tt := range tests {
		c := flagutil.Common{ClusterName: tt.name, StoreBackend: tt.backend, StoreTimeout: time.Second}
		if err := c.Check(); tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("Check of cluster %q, backend %q = %v, want %q", tt.name, tt.backend, err, tt.want)
		}
	}
	c := flagutil.Common{ClusterName: "c", StoreBackend: "etcdv3"}
	if err := c.Check(); err == nil || !strings.Contains(err.Error(), "--store-timeout") {
		t.Errorf("Check without a timeout = %v", err)
	}
}

func TestThePasswordOfTheStore(t *testing.T) {
	const user, file = "--store-username=u", "--store-password-file=/f"
	tests := []struct {
		name string
		vars map[string]string
		args []string
		want string // what Check says; "" is nothing
	}{
		{"by file", nil, []string{user, file}, ""},
		{"by environment", map[string]string{"STPROXY_STORE_PASSWORD": "topsecret"}, []string{user}, ""},
		{"all by environment", map[string]string{"STPROXY_STORE_USERNAME": "u", "STPROXY_STORE_PASSWORD_FILE": "/f"}, nil, ""},
		{"of another program", map[string]string{"STKEEPER_STORE_PASSWORD": "topsecret"}, []string{user}, "--store-username is given without a password"},
		{"both", map[string]string{"STPROXY_STORE_PASSWORD": "topsecret"}, []string{user, file}, "only one of --store-password-file and STPROXY_STORE_PASSWORD"},
		{"none", nil, []string{user}, "give --store-password-file"},
		{"without a user", map[string]string{"STPROXY_STORE_PASSWORD": "topsecret"}, nil, "(STPROXY_STORE_PASSWORD) without --store-username"},
		{"for Consul", nil, []string{"--store-backend=consul", user, file}, "--store-token-file"},
		{"as an argument", nil, []string{user, "--store-password=topsecret"}, "unknown flag: --store-password"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c flagutil.Common
			fs := pflag.NewFlagSet("x", pflag.ContinueOnError)
			fs.SetOutput(new(bytes.Buffer))
			c.Add(fs)
			err := flagutil.FromEnv(fs, "STPROXY", env(tt.vars))
			if err == nil {
				err = fs.Parse(append([]string{"--cluster-name=c", "--store-backend=etcdv3"}, tt.args...))
			}
			if err == nil {
				err = c.Check()
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Check = %v, want %q", err, tt.want)
			}
			if text := fmt.Sprint(err) + fmt.Sprintf("%+v %#v", c, c); strings.Contains(text, "topsecret") {
				t.Errorf("the password is shown: %s", text)
			}
		})
	}
}
