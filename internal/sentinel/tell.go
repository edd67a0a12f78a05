package sentinel

import (
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"stolon/internal/cluster"
	"stolon/internal/sentinel/decide"
)

// tell logs what was done.
func (s *Sentinel) tell(events []decide.Event) {
	for _, e := range events {
		s.logEvent(e)
	}
}

// quiet takes in a decision that leaves nothing to write now, or no more.
func (s *Sentinel) quiet(d decide.Decision) {
	s.waiting(d.Waiting)
	if p := decide.Problems(d.Waiting); !slices.Equal(p, s.problem) {
		s.problem, s.heartbeatAt = p, s.o.Clock() // "stolonctl status" shows them
	}
	if d.Wake != 0 {
		s.passAt = min(s.passAt, d.Wake)
	}
}

// waiting logs what the cluster waits for, each thing once for as long as it lasts.
func (s *Sentinel) waiting(events []decide.Event) {
	now := map[string]bool{}
	for _, e := range events {
		key := e.Kind + "\x00" + e.DB + "\x00" + e.Keeper + "\x00" + e.Proxy
		now[key] = true
		if !s.told[key] {
			s.logEvent(e)
		}
	}
	s.told = now
}

func (s *Sentinel) logEvent(e decide.Event) {
	level := map[decide.Level]zapcore.Level{
		decide.Debug: zap.DebugLevel, decide.Info: zap.InfoLevel, decide.Warn: zap.WarnLevel, decide.Error: zap.ErrorLevel,
	}[e.Level]
	ce := s.log.Check(level, e.Kind)
	if ce == nil {
		return
	}
	var fields []zap.Field
	for _, f := range []struct{ name, value string }{{"db", e.DB}, {"keeper", e.Keeper}, {"proxy", e.Proxy}, {"why", e.Why}} {
		if f.value != "" {
			fields = append(fields, zap.String(f.name, f.value))
		}
	}
	for _, k := range cluster.SortedKeys(e.Details) {
		fields = append(fields, zap.Any(k, e.Details[k]))
	}
	ce.Write(fields...)
}

// storeError tells once that the store doesn't answer.
func (s *Sentinel) storeError(doing string, err error) {
	if s.storeOK {
		s.log.Error("store does not answer, trying on", zap.String("doing", doing), zap.Error(err))
	}
	s.storeOK = false
}

func (s *Sentinel) storeAnswers() {
	if !s.storeOK {
		s.log.Info("store answers again")
	}
	s.storeOK = true
}
