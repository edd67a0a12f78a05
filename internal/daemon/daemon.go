// Package daemon is what the three daemons share around their loops: version,
// signals, identifiers and the metrics server.
package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Version is set when the program is built, by ./build.
var Version = "No version defined at build time"

// Context ends with the first SIGINT or SIGTERM. The second one calls force,
// which ends the process: whoever sends it has no more patience. stop ends the
// context and gives the signals back.
func Context(force func()) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-signals:
			cancel()
		case <-over:
			return
		}
		select {
		case <-signals:
			force()
		case <-over:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(over)
		<-ended
		cancel()
	}
}

// NewUID returns a random identifier of 8 hexadecimal digits.
func NewUID() string {
	u := uuid.New()
	return hex.EncodeToString(u[:4])
}

// NewBootUUID returns the identifier of a keeper process.
func NewBootUUID() string { return uuid.NewString() }

// Metrics is a registry with what every component exposes.
func Metrics(clusterName, component string) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	id := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "stolon_cluster_identifier", Help: "Always 1; its labels name the cluster and the component.",
		ConstLabels: prometheus.Labels{"cluster_name": clusterName, "component": component},
	})
	id.Set(1)
	for _, c := range []prometheus.Collector{id, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return r, nil
}

// ServeMetrics listens on address, "" being nowhere. serve then serves r at
// /metrics until ctx ends, or returns the error that ended it before; call it.
func ServeMetrics(ctx context.Context, address string, r *prometheus.Registry) (serve func() error, err error) {
	if address == "" {
		return func() error { <-ctx.Done(); return nil }, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot serve metrics (--metrics-listen-address %s): %w", address, err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.InstrumentMetricHandler(r, promhttp.HandlerFor(r, promhttp.HandlerOpts{})))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	return func() error {
		stop := context.AfterFunc(ctx, func() { srv.Close() })
		defer stop()
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve metrics on %s: %w", address, err)
		}
		return nil
	}, nil
}
