package servers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// StartEtcd starts an etcd, with these arguments more, and waits until it
// serves. It ends with the test, and its log is shown if the test fails.
func StartEtcd(t testing.TB, args ...string) *Store {
	t.Helper()
	return StartEtcdCluster(t, 1, args...)[0]
}

// StartEtcdTLS starts an etcd that serves https only, with this certificate
// and key, and only clients whose certificate is signed by an authority in
// clientCA.
func StartEtcdTLS(t testing.TB, cert, key, clientCA string) *Store {
	t.Helper()
	e := &Store{Backend: Etcd, Endpoint: fmt.Sprintf("https://127.0.0.1:%d", Port(t))}
	// Without a certificate only this can be asked whether it serves.
	metrics := fmt.Sprintf("http://127.0.0.1:%d", Port(t))
	peer := fmt.Sprintf("http://127.0.0.1:%d", Port(t))
	bin, err := EtcdBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	e.process = process{t: t, name: "etcd " + e.Endpoint, log: filepath.Join(dir, "etcd.log")}
	e.args = []string{
		bin, "--data-dir", filepath.Join(dir, "data"), "--log-level", "warn", "--name", "etcd0",
		"--listen-client-urls", e.Endpoint, "--advertise-client-urls", e.Endpoint, "--listen-metrics-urls", metrics,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "etcd0=" + peer,
		"--cert-file", cert, "--key-file", key, "--trusted-ca-file", clientCA, "--client-cert-auth",
	}
	e.health = metrics + "/health"
	e.run()
	e.awaitReady()
	return e
}

// StartEtcdCluster starts an etcd cluster of n members, each with these
// arguments more, and waits until all serve.
func StartEtcdCluster(t testing.TB, n int, args ...string) []*Store {
	t.Helper()
	return startEtcdCluster(t, Here, n, args...)
}

// startEtcdCluster is StartEtcdCluster at some place. What lies between the
// members is here, so elsewhere there can be one only.
func startEtcdCluster(t testing.TB, at Place, n int, args ...string) []*Store {
	t.Helper()
	bin, err := EtcdBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var members []*Store
	var advertised, cluster []string
	between := newJunction(t)
	for i := range n {
		e := &Store{
			Backend: Etcd, Endpoint: fmt.Sprintf("http://%s:%d", at.Address, Port(t)),
			peer: fmt.Sprintf("http://127.0.0.1:%d", Port(t)), between: between,
		}
		members = append(members, e)
		advertised = append(advertised, between.lead(t, e))
		cluster = append(cluster, fmt.Sprintf("etcd%d=%s", i, advertised[i]))
	}
	for i, e := range members {
		name := fmt.Sprintf("etcd%d", i)
		e.health = e.Endpoint + "/health" // a linearizable read's
		e.process = process{t: t, at: at, name: "etcd " + e.Endpoint, log: filepath.Join(dir, name+".log")}
		e.args = []string{
			bin, "--name", name, "--data-dir", filepath.Join(dir, name),
			"--listen-client-urls", e.Endpoint, "--advertise-client-urls", e.Endpoint,
			"--listen-peer-urls", e.peer, "--initial-advertise-peer-urls", advertised[i],
			"--initial-cluster", strings.Join(cluster, ","), "--initial-cluster-state", "new",
			"--initial-cluster-token", t.Name(), "--log-level", "warn",
			"--bcrypt-cost", "4", // a login of all at once takes seconds of a busy machine otherwise
		}
		e.args = append(e.args, args...)
		e.run()
	}
	for _, e := range members {
		e.awaitReady()
	}
	return members
}

var built = struct {
	sync.Mutex
	path string
}{}

// EtcdBinary returns the program: $ETCD_BIN, or .test/bin/etcd in this
// repository, which is built when it is missing.
func EtcdBinary() (string, error) {
	if bin := os.Getenv("ETCD_BIN"); bin != "" {
		return bin, nil
	}
	built.Lock()
	defer built.Unlock()
	if built.path != "" {
		return built.path, nil
	}
	_, here, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("where is this repository? set ETCD_BIN")
	}
	repo := filepath.Dir(filepath.Dir(filepath.Dir(here)))
	bin := filepath.Join(repo, ".test", "bin", "etcd")
	if _, err := os.Stat(bin); err == nil {
		built.path = bin
		return bin, nil
	}
	if err := os.MkdirAll(filepath.Dir(bin), 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(bin+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	// Several test processes may want it at once.
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	if _, err := os.Stat(bin); err == nil {
		built.path = bin
		return bin, nil
	}
	fmt.Fprintf(os.Stderr, "building etcd into %s; set ETCD_BIN to use another\n", bin)
	build := exec.Command("go", "build", "-o", bin+".new", "go.etcd.io/etcd/server/v3")
	build.Dir = filepath.Join(repo, "tests", "tools", "etcd")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build etcd: %w\n%s", err, out)
	}
	if err := os.Rename(bin+".new", bin); err != nil {
		return "", err
	}
	built.path = bin
	return bin, nil
}
