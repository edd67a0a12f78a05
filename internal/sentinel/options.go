package sentinel

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

// Options is what a Sentinel needs; all parsed and read.
type Options struct {
	UID string // 8 lower-case hexadecimal digits, random at each start
	// InitialSpec, where not nil, is written when the store has no cluster data.
	InitialSpec *cluster.Spec

	// Lifeline, unless nil, is served for as long as this process runs. Host is
	// that of lifeline.Host.
	Lifeline *cluster.Lifeline
	Host     string

	// Dial connects by TCP; nil: as lifeline.Dial does.
	Dial func(ctx context.Context, address string) (net.Conn, error)

	Store   *store.Client
	Clock   clock.Clock
	Wall    func() time.Time
	NewUID  func() string   // 8 lower-case hexadecimal digits, random
	Pick    func(n int) int // a random number in [0, n)
	Log     *zap.Logger
	Metrics prometheus.Registerer // nil for none
	// StoreTimeout bounds each store call with its repetitions.
	StoreTimeout time.Duration
}
