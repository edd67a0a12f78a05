package daemon_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"stolon/internal/daemon"
)

func TestIdentifiers(t *testing.T) {
	uid := regexp.MustCompile(`^[0-9a-f]{8}$`)
	if a, b := daemon.NewUID(), daemon.NewUID(); !uid.MatchString(a) || a == b {
		t.Errorf("NewUID = %q, then %q", a, b)
	}
	boot := regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	if a := daemon.NewBootUUID(); !boot.MatchString(a) {
		t.Errorf("NewBootUUID = %q", a)
	}
}

// A test process of its own plays the daemon that gets signals.
func TestMain(m *testing.M) {
	if os.Getenv("DAEMON_TEST_SIGNALS") == "" {
		os.Exit(m.Run())
	}
	ctx, stop := daemon.Context(func() { os.Exit(7) })
	os.Stdout.WriteString("ready\n")
	<-ctx.Done()
	os.Stdout.WriteString("ended\n")
	if os.Getenv("DAEMON_TEST_SIGNALS") == "2" {
		time.Sleep(time.Minute) // an orderly end that takes too long
	}
	stop()
	os.Exit(0)
}

func TestTheFirstSignalEndsTheContextTheSecondTheProcess(t *testing.T) {
	for signals, want := range map[string]int{"1": 0, "2": 7} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "DAEMON_TEST_SIGNALS="+signals)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer cmd.Process.Kill()
		read := func(want string) {
			t.Helper()
			b := make([]byte, len(want))
			if _, err := io.ReadFull(out, b); err != nil || string(b) != want {
				t.Fatalf("read %q, %v, want %q", b, err, want)
			}
		}
		read("ready\n")
		cmd.Process.Signal(syscall.SIGTERM)
		read("ended\n")
		if signals == "2" {
			cmd.Process.Signal(os.Interrupt)
		}
		cmd.Wait()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("after %s signals exit code %d, want %d", signals, got, want)
		}
	}
}

func TestStopGivesTheSignalsBack(t *testing.T) {
	ctx, stop := daemon.Context(func() { t.Error("forced") })
	stop()
	if ctx.Err() == nil {
		t.Error("the context goes on")
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM) // or the signal would end the test
	defer signal.Stop(c)
	syscall.Kill(os.Getpid(), syscall.SIGTERM)
	<-c
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestMetrics(t *testing.T) {
	r, err := daemon.Metrics("my cluster", "sentinel")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	address := freePort(t)
	serve, err := daemon.ServeMetrics(ctx, address, r)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- serve() }()
	status, body := get(t, "http://"+address+"/metrics")
	for _, want := range []string{`stolon_cluster_identifier{cluster_name="my cluster",component="sentinel"} 1`, "\ngo_goroutines ", "\nprocess_open_fds ", "\npromhttp_metric_handler_requests_in_flight "} {
		if status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("GET /metrics: status %d, no %q", status, want)
		}
	}
	if status, _ := get(t, "http://"+address+"/"); status != http.StatusNotFound {
		t.Errorf("GET /: status %d, want 404", status)
	}
	if _, err := daemon.ServeMetrics(t.Context(), address, r); err == nil || !strings.Contains(err.Error(), "--metrics-listen-address "+address) {
		t.Errorf("a used address: error %v, which should name flag and address", err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serve = %v", err)
	}
}

func TestWithoutAnAddressNothingIsServed(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	serve, err := daemon.ServeMetrics(ctx, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := serve(); err != nil {
		t.Errorf("serve = %v", err)
	}
}
