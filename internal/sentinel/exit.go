package sentinel

import (
	"context"

	"go.uber.org/zap"

	"stolon/internal/lifeline"
	"stolon/internal/sentinel/decide"
	"stolon/internal/store"
)

// hold holds the lifelines of all proxies and of the other sentinels, leading
// or not: who leads next must know who exited together with the leader.
func (s *Sentinel) hold(st *store.State) {
	addresses := map[string]string{}
	for uid, info := range st.Proxies {
		if lifeline.Reachable(info.Lifeline, s.o.Host) {
			addresses[uid] = info.Lifeline.Address
		}
	}
	for uid, info := range st.Sentinels {
		if uid != s.o.UID && lifeline.Reachable(info.Lifeline, s.o.Host) {
			addresses[uid] = info.Lifeline.Address
		}
	}
	s.lifelines.Hold(addresses)
}

// exited notes that a process has exited. A sentinel's session ends with it, so
// that the next one leads at once. That does no harm where it is wrong: every
// write of a leader has the condition that it still leads (protocols.md S15).
func (s *Sentinel) exited(ctx context.Context, uid string) {
	now := s.o.Clock()
	s.mem = decide.Exited(s.mem, uid)
	s.passAt = min(s.passAt, now)
	if _, ok := s.o.Store.Decode(s.mirror.Snapshot()).Sentinels[uid]; !ok {
		s.log.Info("proxy has exited", zap.String("proxy", uid))
		return
	}
	s.log.Info("sentinel has exited", zap.String("sentinel", uid))
	err := s.writes.Ask(ctx, s.interval(), func(ctx context.Context) error {
		return s.o.Store.Depose(ctx, s.o.Store.ElectionKey(), uid)
	})
	if err != nil {
		s.storeError("end the session of a sentinel that has exited", err)
	}
}
