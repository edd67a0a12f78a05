package proxy

import (
	"context"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"stolon/internal/clock"
	"stolon/internal/cluster"
	"stolon/internal/store"
)

// Options is what a Proxy needs; all parsed.
type Options struct {
	UID           string // 8 lower-case hexadecimal digits, random at each start
	ListenAddress string
	Port          string
	StopListening bool                // close the listening socket when the deadline has passed
	KeepAlive     net.KeepAliveConfig // of client connections
	HoldTimeout   time.Duration       // how long clients wait for a master; 0 not at all

	// Lifeline, unless nil, is served for as long as this process runs.
	Lifeline *cluster.Lifeline

	// Listen, Dial and Resolve default to those of package net.
	Listen  func(ctx context.Context, address string) (net.Listener, error)
	Dial    func(ctx context.Context, address string) (net.Conn, error)
	Resolve func(ctx context.Context, host string) (string, error)

	Store   *store.Client
	Clock   clock.Clock
	NewUID  func() string
	Log     *zap.Logger
	Metrics prometheus.Registerer // nil for none
	// StoreTimeout bounds each store call with its repetitions.
	StoreTimeout time.Duration
}
