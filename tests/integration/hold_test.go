//go:build integration

package integration

import (
	"strings"
	"testing"
	"time"

	"stolon/tests/harness"
)

// Clients that connect while the master is replaced wait for the next one: none
// of them gets an error, although each had its own connection.
func TestClientsWaitOutAFailover(t *testing.T) {
	t.Parallel()
	c := harness.Start(t, harness.Options{Keepers: 2, Proxies: 1})
	c.AwaitHealthy(30*time.Second, 2)
	master, standbys := c.Roles()
	c.AwaitRoute(10*time.Second, master)
	c.AwaitCaughtUp(20*time.Second, master, standbys...)

	began, stop := make(chan struct{}), make(chan struct{})
	results := make(chan []error)
	for i := range 4 {
		go func() {
			var errs []error
			for n := 0; ; n++ {
				select {
				case <-stop:
					results <- errs
					return
				default:
				}
				if _, err := c.Proxies[0].SQL().Try(28*time.Second, "select pg_is_in_recovery()"); err != nil {
					errs = append(errs, err)
				}
				if i == 0 && n == 0 {
					close(began)
				}
				// Nobody is connected when the master goes: what is shown is
				// connecting.
				time.Sleep(20 * time.Millisecond)
			}
		}()
	}
	<-began
	mark := time.Now()
	c.Ctl("failkeeper", master.UID)
	c.AwaitMaster(40*time.Second, standbys[0])
	c.AwaitRoute(20*time.Second, standbys[0])
	t.Logf("failed over after %s", time.Since(mark))
	close(stop)
	for range 4 {
		for _, err := range <-results {
			// A session that was open when the route was cut is reset; it had
			// connected before.
			if !strings.Contains(err.Error(), "reset") {
				t.Errorf("a client got an error: %v", err)
			}
		}
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
