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

// Context ends with the first SIGINT or SIGTERM. The second one exits at once:
// whoever sends it has no more patience.
func Context() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-c
		cancel()
		<-c
		os.Exit(1)
	}()
	return ctx, cancel
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

// ServeMetrics serves r on address until ctx ends; on "" it serves nothing. The
// listening socket is open when it returns; wait returns when ctx has ended, or
// with the error that ended the serving before.
func ServeMetrics(ctx context.Context, address string, r *prometheus.Registry) (wait func() error, err error) {
	if address == "" {
		return func() error { <-ctx.Done(); return nil }, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics (--metrics-listen-address %s): %w", address, err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.InstrumentMetricHandler(r, promhttp.HandlerFor(r, promhttp.HandlerOpts{})))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	return func() error {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
		}
		srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}, nil
}
