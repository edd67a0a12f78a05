//go:build integration

package integration

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"stolon/internal/store"
	"stolon/internal/store/dial"
	"stolon/internal/store/open"
	"stolon/internal/store/storetest"
	"stolon/tests/certs"
	"stolon/tests/harness"
	"stolon/tests/servers"
)

const (
	etcdUser     = "stolon"
	etcdPassword = "a first: secret"
	rootPassword = "the root's secret"
)

// asRoot is a client of an etcd that lets in users only.
func asRoot(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Username: "root", Password: rootPassword, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// admitUsersOnly makes etcd let in users only, of which ours may do what it
// likes below prefix and nothing else.
func admitUsersOnly(t *testing.T, endpoint, prefix string) {
	t.Helper()
	admitUsersBy(t, rawEtcd(t, endpoint), prefix)
}

func admitUsersBy(t *testing.T, c *clientv3.Client, prefix string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	for _, do := range []func() error{
		func() error { _, err := c.UserAdd(ctx, "root", rootPassword); return err },
		func() error { _, err := c.RoleAdd(ctx, "root"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.UserAdd(ctx, etcdUser, etcdPassword); return err },
		func() error { _, err := c.RoleAdd(ctx, "stolon"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "stolon", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := c.UserGrantRole(ctx, etcdUser, "stolon"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
}

// secretFile writes a password to a file of its own.
func secretFile(t *testing.T, password string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	writeSecret(t, file, password)
	return file
}

func writeSecret(t *testing.T, file, password string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// asUser opens the store as our user.
func asUser(t *testing.T, endpoints, passwordFile string, timeout time.Duration) store.Backend {
	t.Helper()
	b, err := open.Backend(open.Config{
		Backend: "etcdv3", Endpoints: endpoints, Timeout: timeout, Username: etcdUser, Password: dial.Password{File: passwordFile},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEtcdConformanceAsAUser(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d members", n), func(t *testing.T) {
			members := servers.StartEtcdCluster(t, n)
			admitUsersOnly(t, members[0].Endpoint, t.Name())
			file := secretFile(t, etcdPassword)
			storetest.Run(t, func(t *testing.T) store.Backend {
				return within{asUser(t, servers.Endpoints(members), file, 10*time.Second), t.Name() + ": "}
			})
		})
	}
}

// An etcd that knows users by the common names of their certificates.
func TestEtcdConformanceByCertificate(t *testing.T) {
	t.Parallel()
	ca := certs.New(t, t.TempDir(), "ca")
	serverCert, serverKey := ca.Sign("server")
	cert, key := ca.Sign(etcdUser)
	files := dial.TLS{CAFile: ca.File, CertFile: cert, KeyFile: key}
	e := servers.StartEtcdTLS(t, serverCert, serverKey, ca.File)
	conf, err := files.Config(e.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{e.Endpoint}, TLS: conf, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	admitUsersBy(t, c, t.Name())
	as := open.Config{Backend: "etcdv3", Endpoints: e.Endpoint, Timeout: 10 * time.Second, CAFile: ca.File, CertFile: cert, KeyFile: key}
	storetest.Run(t, func(t *testing.T) store.Backend {
		b, err := open.Backend(as)
		if err != nil {
			t.Fatal(err)
		}
		return within{b, t.Name() + ": "}
	})
	if err := getOver(t, as); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("a read of what is not ours = %v", err)
	}
}

// jwt is the argument for tokens that end after ttl however much they are used.
func jwt(t *testing.T, ttl time.Duration) string {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{
		"key": {Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}, "public": {Type: "PUBLIC KEY", Bytes: public},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return fmt.Sprintf("--auth-token=jwt,pub-key=%s/public,priv-key=%s/key,sign-method=RS256,ttl=%s", dir, dir, ttl)
}

// rest lets tokens end: looking whether they have would make some last.
func rest(d time.Duration) { time.Sleep(d) }

// Tokens that end, of silence or of age, and that a member forgets when it
// restarts, are asked for anew: for requests, leases, candidacies and watches.
func TestEtcdTokensEnd(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	for name, args := range map[string][]string{
		"simple": {"--auth-token=simple", "--auth-token-ttl=2"},
		"jwt":    {jwt(t, ttl)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := servers.StartEtcd(t, args...)
			admitUsersOnly(t, e.Endpoint, "p/")
			b := closing(t, asUser(t, e.Endpoint, secretFile(t, etcdPassword), 5*time.Second))
			lease, err := b.Grant(t.Context(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			cand, err := b.Campaign(t.Context(), "p/election", "me", time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			var m store.Mirror
			w := b.Watch(t.Context(), "p/k/")
			mustPut(t, b, "p/k/a", "1")
			awaitKey(t, w, &m, "p/k/a", "1")
			for i, change := range []func(){
				func() { rest(2 * ttl) },
				func() { e.Restart() },
				func() { rest(2 * ttl) },
			} {
				change()
				// Whatever comes first has to find out.
				calls := []func() error{
					func() error { return lease.Renew(t.Context()) },
					func() error { _, err := b.List(t.Context(), "p/k/"); return err },
					func() error {
						_, err := b.Commit(t.Context(), []store.Condition{cand.Leading()}, []store.Op{{Key: "p/k/a", Value: fmt.Append(nil, "later ", i), Lease: lease}})
						return err
					},
				}
				for j := range calls {
					if err := calls[(i+j)%len(calls)](); err != nil {
						t.Errorf("change %d, call %d: %v", i, (i+j)%len(calls), err)
					}
				}
				awaitKey(t, w, &m, "p/k/a", fmt.Sprint("later ", i))
			}
			if err := cand.Resign(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// eventuallyNil waits until a call succeeds.
func eventuallyNil(t *testing.T, what string, call func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(soon); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = call(); err == nil {
			return
		}
	}
	t.Errorf("%s: %v", what, err)
}

// A password is changed while a process runs: with the file before etcd no
// request fails; with etcd before the file the requests go on with the file.
func TestEtcdPasswordChanges(t *testing.T) {
	t.Parallel()
	e := servers.StartEtcd(t)
	admitUsersOnly(t, e.Endpoint, "p/")
	root, file := asRoot(t, e.Endpoint), secretFile(t, etcdPassword)
	b := closing(t, asUser(t, e.Endpoint, file, 5*time.Second))
	get := func() error { _, err := b.Get(t.Context(), "p/k"); return err }
	inEtcd := func(password string) {
		t.Helper()
		if _, err := root.UserChangePassword(t.Context(), etcdUser, password); err != nil {
			t.Fatal(err)
		}
	}
	if err := get(); err != nil {
		t.Fatal(err)
	}

	writeSecret(t, file, "a second: secret")
	e.Restart() // the token is gone
	if err := get(); err != nil {
		t.Errorf("the file is changed and etcd not yet: %v", err)
	}
	inEtcd("a second: secret")
	if err := get(); err != nil {
		t.Errorf("the file was changed, then etcd: %v", err)
	}

	inEtcd("a third: secret")
	err := get()
	if err == nil {
		t.Fatal("etcd takes a password that was changed")
	}
	for _, want := range []string{etcdUser, "--store-username", "--store-password-file " + file} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("%q holds the password", err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := get(); err == nil {
		t.Error("etcd takes a password that was changed, without its file")
	}
	writeSecret(t, file, "a third: secret")
	eventuallyNil(t, "etcd was changed, then the file", get)
}

func TestEtcdRefusesUsers(t *testing.T) {
	t.Parallel()
	e := servers.StartEtcd(t)
	admitUsersOnly(t, e.Endpoint, "p/")
	file := secretFile(t, etcdPassword)
	tests := []struct {
		name string
		conf open.Config
		want string
	}{
		{"nobody", open.Config{}, "give --store-username and --store-password-file"},
		{"an unknown user", open.Config{Username: "whoever", Password: dial.Password{File: file}}, `etcd refuses user "whoever" with the password given; check --store-username and --store-password-file ` + file},
		{"a wrong password of the environment", open.Config{Username: etcdUser, Password: dial.Password{Value: "wrong: secret", Variable: "STX_STORE_PASSWORD"}}, "check --store-username and STX_STORE_PASSWORD"},
		{"who may not", open.Config{Username: etcdUser, Password: dial.Password{File: file}}, "the keys below --store-prefix"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.conf.Backend, tt.conf.Endpoints, tt.conf.Timeout = "etcdv3", e.Endpoint, 5*time.Second
			start := time.Now()
			err := getOver(t, tt.conf)
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "secret") || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a read = %v, want at once an error with %q and no password", err, tt.want)
			}
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// A process that is given a user starts while etcd is away, and before etcd
// asks for users.
func TestEtcdMayComeAfterTheUser(t *testing.T) {
	t.Parallel()
	e := servers.StartEtcd(t)
	e.Stop()
	b := closing(t, asUser(t, e.Endpoint, secretFile(t, etcdPassword), time.Second))
	get := func() error { _, err := b.Get(t.Context(), "p/k"); return err }
	if err := get(); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("a read while etcd is away = %v", err)
	}
	e.Restart()
	eventuallyNil(t, "etcd is there and asks for no user", get)
	admitUsersOnly(t, e.Endpoint, "p/")
	eventuallyNil(t, "etcd asks for users", get)
	if _, err := asRoot(t, e.Endpoint).AuthDisable(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventuallyNil(t, "etcd asks no more", get)
}

// A cluster whose etcd lets in users only: etcd forgets all tokens, the
// password is changed, and nobody notices; then the master dies. No log and no
// message tells the password.
func TestAClusterWhoseEtcdHasUsers(t *testing.T) {
	t.Parallel()
	file := secretFile(t, etcdPassword)
	flags := []string{"--store-timeout=2s", "--store-username=" + etcdUser}
	c := harness.Start(t, harness.Options{
		Keepers: 2, Sentinels: 2, Proxies: 1,
		Flags: append(flags, "--store-password-file="+file),
		Early: func(c *harness.Cluster) {
			if c.Server.Backend != servers.Etcd {
				t.Skip("this is about etcd")
			}
			// The least that it needs.
			admitUsersOnly(t, c.Server.Endpoint, "stolon/cluster/"+c.Name+"/")
			c.Store = store.NewClient(closing(t, asUser(t, c.Server.Endpoint, file, 10*time.Second)), "stolon/cluster", c.Name)
		},
	})
	before := c.Data()
	w := harness.StartWriter(c.Proxies[0].SQL())
	w.AwaitRows(t, soon, 20)
	const changed = "a second: secret"
	for _, change := range []func(){
		func() { c.Server.Restart() },
		func() {
			writeSecret(t, file, changed)
			c.Server.Restart() // now all log in with the old one
		},
		func() {
			if _, err := asRoot(t, c.Server.Endpoint).UserChangePassword(t.Context(), etcdUser, changed); err != nil {
				t.Fatal(err)
			}
		},
	} {
		change()
		harness.Holds(t, 7*time.Second, "the master and the route stay", func() (string, bool) {
			cd, err := c.TryData()
			if err != nil {
				return err.Error(), false
			}
			return harness.Summary(cd), cd.Cluster.Status.Master == before.Cluster.Status.Master && cd.Proxy.Spec.MasterDBUID == before.Proxy.Spec.MasterDBUID
		})
	}
	if n := w.Connections(); n > 0 {
		t.Errorf("%d connections have ended", n)
	}
	unmoved(t, c, before, w)

	master, standbys := c.Roles()
	position := master.SQL().Query("select pg_current_wal_lsn()")
	standbys[0].SQL().AwaitQuery(soon, "select pg_last_wal_replay_lsn() >= '"+position+"'", "true")
	master.KillBoth()
	c.AwaitMaster(2*soon, standbys[0])
	c.AwaitRoute(soon, standbys[0])

	args := append([]string{"status", "--cluster-name=" + c.Name, "--store-backend=etcdv3", "--store-endpoints=" + c.Server.Endpoint}, flags...)
	for password, want := range map[string]string{changed: "Master Keeper: " + standbys[0].UID, "a wrong: secret": "check --store-username and STOLONCTL_STORE_PASSWORD"} {
		cmd := exec.Command(os.Getenv("STCTL_BIN"), args...)
		cmd.Env = append(os.Environ(), "STOLONCTL_STORE_PASSWORD="+password)
		if out, _ := cmd.CombinedOutput(); !strings.Contains(string(out), want) || strings.Contains(string(out), "secret") {
			t.Errorf("stolonctl status says, without %q or with the password: %s", want, out)
		}
	}
	logs := c.Proxies[0].Log()
	for _, k := range c.Keepers {
		logs += k.Log()
	}
	for _, s := range c.Sentinels {
		logs += s.Log()
	}
	if strings.Contains(logs, ": secret") {
		t.Error("a log has the password")
	}
}
