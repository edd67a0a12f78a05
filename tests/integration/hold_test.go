//go:build integration

package integration

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"stolon/tests/certs"
	"stolon/tests/harness"
)

// Clients that connect while the master is replaced wait for the next one: none
// of them gets an error, whether the old master was sent away or has crashed
// and refuses connections until that is noticed.
func TestClientsWaitOutAFailover(t *testing.T) {
	for name, fail := range map[string]func(*testing.T, *harness.Cluster, *harness.Keeper){
		"failkeeper": func(_ *testing.T, c *harness.Cluster, k *harness.Keeper) {
			mark := c.Proxies[0].Mark()
			c.Ctl("failkeeper", k.UID)
			// Who connects before the cut is led to the old master, and is cut.
			c.Proxies[0].AwaitLog(soon, mark, "no db object available, closing connections to master")
		},
		"crash": func(t *testing.T, _ *harness.Cluster, k *harness.Keeper) {
			k.KillBoth()
			// Who is accepted by a dying postmaster is led there already, and
			// hears of its end.
			harness.Await(t, 5*time.Second, "the old master refuses connections", func() (string, bool) {
				_, err := k.SQL().Try(time.Second, "select 1")
				return fmt.Sprint(err), errors.Is(err, syscall.ECONNREFUSED)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1})
			c.AwaitHealthy(30*time.Second, 2)
			master, standbys := c.Roles()
			c.AwaitRoute(10*time.Second, master)
			c.AwaitCaughtUp(20*time.Second, master, standbys...)

			fail(t, c, master)
			results := make(chan error)
			const clients = 20
			for range clients {
				go func() {
					_, err := c.Proxies[0].SQL().Try(28*time.Second, "create temporary table t ()")
					results <- err
				}()
			}
			for range clients {
				if err := <-results; err != nil {
					t.Errorf("a client got an error: %v", err)
				}
			}
			c.AwaitRoute(20*time.Second, standbys[0])
		})
	}
}

// PostgreSQL that is killed under a living keeper is started again: meanwhile it
// refuses connections, then takes them and tells everybody to come again, then
// lets in stolon's own roles only. Whoever connects notices a pause.
func TestClientsWaitOutARestartInPlace(t *testing.T) {
	t.Parallel()
	ca := certs.New(t, t.TempDir(), "authority")
	cert, key := ca.Sign("server")
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1, Spec: harness.Quick(harness.Spec{
		"synchronousReplication": true, "failInterval": "2m", // however long it takes
		"pgParameters": harness.Parameters(map[string]string{"ssl": "on", "ssl_cert_file": cert, "ssl_key_file": key}),
	})})
	c.AwaitHealthy(2*soon, 2)
	c.AwaitSynchronous(soon)
	master, _ := c.Roles()
	c.AwaitRoute(soon, master)
	proxy := c.Proxies[0]
	su := proxy.SQL()
	su.Query("create role app login password 'app'")
	su.Query("create table t as select generate_series(1, 800000) n") // to be replayed
	app := su.As("app", "app")
	kinds := map[string]harness.Server{"plain": app, "TLS": app.TLS(), "superuser": su, "superuser, TLS": su.TLS()}
	for _, s := range kinds {
		s.AwaitQuery(soon, "select 1", "1")
	}

	mark := proxy.Mark()
	pid := master.Postmaster()
	master.KillPostgres()
	// Whom a dying postmaster still accepts and begins to answer hears of its end.
	harness.Await(t, 5*time.Second, "the postmaster has ended", func() (string, bool) {
		now := master.Postmaster()
		return fmt.Sprint(now), now != pid
	})
	over := make(chan struct{})
	var clients sync.WaitGroup
	var connects atomic.Int64
	for name, s := range kinds {
		for range 5 {
			clients.Go(func() {
				for {
					if err := s.Connect(28 * time.Second); err != nil {
						t.Errorf("%s: %v", name, err)
						return
					}
					connects.Add(1)
					select {
					case <-over:
						return
					default:
					}
				}
			})
		}
	}
	proxy.AwaitLog(soon, mark, "the master accepts no connections, clients wait")
	proxy.AwaitLog(2*soon, mark, "the master accepts connections again")
	app.TLS().AwaitQuery(soon, "select 1", "1")
	close(over)
	clients.Wait()
	t.Logf("%d connects", connects.Load())
	if next, _ := c.Roles(); next != master {
		t.Errorf("the master is %s, want %s to be restarted", next.UID, master.UID)
	}
}

// Past --hold-timeout a client gets an error that PostgreSQL's clients know.
func TestAClientThatWaitedTooLongIsTold(t *testing.T) {
	t.Parallel()
	c, p, data := leadingProxy(t, "--hold-timeout=2s")
	none := data.Clone()
	none.Proxy.Generation, none.Proxy.Spec.MasterDBUID = 2, ""
	client := connect(t, p, "db1")
	putData(t, c, none)
	client.awaitCut(2 * time.Second)
	for _, s := range []harness.Server{p.SQL(), p.SQL().TLS()} {
		then := time.Now()
		_, err := s.Try(10*time.Second, "select 1")
		took := time.Since(then)
		if err == nil || took < 2*time.Second || took > 5*time.Second {
			t.Errorf("connecting without a master: %v after %s, want an error after 2s", err, took)
		}
	}
	_, err := p.SQL().Try(10*time.Second, "select 1")
	if err == nil || !strings.Contains(err.Error(), "no master at present (waited 2s, --hold-timeout)") {
		t.Errorf("connecting without a master: %v, want the reason", err)
	}
}
