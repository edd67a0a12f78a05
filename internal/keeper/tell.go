package keeper

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"stolon/internal/keeper/decide"
)

// tellOnce logs a state of a topic when it is a new one. State "" is that all
// is well, which is worth telling only after it wasn't, and with a message.
func (k *Keeper) tellOnce(topic, state string, level zapcore.Level, msg string, fields ...zap.Field) {
	k.toldMu.Lock()
	before := k.told[topic]
	k.told[topic] = state
	k.toldMu.Unlock()
	if state == before || msg == "" {
		return
	}
	if ce := k.log.Check(level, msg); ce != nil {
		ce.Write(fields...)
	}
}

// metrics of compat/metrics.md.
type metrics struct {
	lastData, lastSync, sleep, shutdown prometheus.Gauge
	target, local                       *prometheus.GaugeVec
	needsReload, needsRestart           prometheus.Gauge
}

func (m *metrics) register(r prometheus.Registerer) error {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "stolon_keeper_" + name, Help: help})
	}
	roles := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "stolon_keeper_" + name, Help: help}, []string{"role"})
	}
	m.lastData = gauge("clusterdata_last_valid_update_seconds", "Unix time at which valid cluster data was last read.")
	m.lastSync = gauge("last_sync_success_seconds", "Unix time at which the instance was last found to be as it should be.")
	m.sleep = gauge("sleep_interval", "Sleep interval in whole seconds.")
	m.shutdown = gauge("shutdown_seconds", "Unix time at which a termination signal arrived.")
	m.target = roles("target_role", "1 for the role that the cluster data asks for.")
	m.local = roles("local_role", "1 for the role that the instance has.")
	m.needsReload = gauge("needs_reload", "1 while a needed reload has not succeeded.")
	m.needsRestart = gauge("needs_restart", "1 while a changed parameter waits for a restart.")
	if r == nil {
		return nil
	}
	for _, c := range []prometheus.Collector{m.lastData, m.lastSync, m.sleep, m.shutdown, m.target, m.local, m.needsReload, m.needsRestart} {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

func (m *metrics) clusterData() { m.lastData.SetToCurrentTime() }

func (m *metrics) synced(shared) { m.lastSync.SetToCurrentTime(); m.needsReload.Set(0) }

// loop is told what a run of the state machine begins with.
func (m *metrics) loop(s shared) {
	m.sleep.Set(float64(int(s.settings().SleepInterval.Duration / time.Second)))
	db := s.db()
	if db == nil {
		return
	}
	local := "undefined"
	if r := s.report; r.sample != nil {
		local = map[bool]string{true: "master", false: "standby"}[r.sample.Primary]
	} else if r.look.Initialized {
		local = map[bool]string{true: "standby", false: "master"}[r.look.StandbySignal]
	}
	for _, role := range []string{"undefined", "master", "standby"} {
		m.target.WithLabelValues(role).Set(boolFloat(string(db.Spec.Role) == role))
		m.local.WithLabelValues(role).Set(boolFloat(local == role))
	}
	m.needsRestart.Set(boolFloat(s.report.sample != nil && s.report.sample.PendingRestart))
}

func (m *metrics) step(kind decide.Kind) {
	if kind == decide.Reload {
		m.needsReload.Set(1)
	}
}

func boolFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
