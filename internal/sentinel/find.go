package sentinel

import (
	"context"
	"errors"
	"syscall"
	"time"

	"go.uber.org/zap"

	"stolon/internal/cluster"
	"stolon/internal/sentinel/decide"
	"stolon/internal/store"
)

// dialTimeout bounds a dial: a port that is closed refuses at once.
const dialTimeout = 200 * time.Millisecond

// find finds out what a decision asks for, and remembers it for the next one.
// A ping is a write of the leader's, decided on that revision of the cluster
// data (protocols.md S1).
func (s *Sentinel) find(ctx context.Context, ask *decide.Ask, revision int64) {
	if ask == nil {
		return
	}
	if ask.Keeper != "" {
		if err := s.ping(ctx, *ask, revision); err != nil {
			if !errors.Is(err, store.ErrConflict) {
				s.storeError("ping a keeper", err)
			}
			s.passAt = s.o.Clock() + retryAfter
			return
		}
	}
	if ask.Dial != "" {
		s.look(ctx)
		s.dial(ctx, ask.Dial)
	}
	s.passAt = s.o.Clock()
}

func (s *Sentinel) ping(ctx context.Context, ask decide.Ask, revision int64) error {
	ping := *ask.Ping
	ping.Nonce = s.o.NewUID()
	sent := s.o.Clock()
	err := s.write(ctx, func(ctx context.Context) error {
		_, err := s.o.Store.Commit(ctx,
			[]store.Condition{{Key: s.o.Store.ClusterDataKey(), Revision: revision}, s.candidacy.Leading()},
			[]store.Op{{Key: s.o.Store.ExtKey(cluster.ExtPings + ask.Keeper), Value: store.Encode(ping), Lease: s.candidacy.Lease()}})
		return err
	})
	if err != nil {
		return err
	}
	s.mem = decide.Pinged(s.mem, ask.Keeper, ping, s.o.Clock())
	s.called(sent)
	return nil
}

// look notices whether the store answers, at each dial of the inquiry: one that
// is away while the keeper should answer, and back when its time is over, would
// be noticed by nobody.
func (s *Sentinel) look(ctx context.Context) {
	sent := s.o.Clock()
	err := s.reads.Ask(ctx, s.interval(), func(ctx context.Context) error {
		_, err := s.o.Store.Get(ctx, s.o.Store.ClusterDataKey())
		return err
	})
	if err != nil {
		s.storeError("look whether the store answers", err)
	}
	s.called(sent)
}

// dial tells whether the address refuses connections.
func (s *Sentinel) dial(ctx context.Context, address string) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := s.o.Dial(ctx, address)
	if err == nil {
		conn.Close()
	}
	refused := errors.Is(err, syscall.ECONNREFUSED)
	if !refused {
		s.log.Info("the suspected master may live", zap.String("address", address), zap.NamedError("dial", err))
	}
	s.mem = decide.Dialled(s.mem, refused, s.o.Clock())
}

// called notes how long the store call that was sent then took.
func (s *Sentinel) called(sent time.Duration) time.Duration {
	now := s.o.Clock()
	s.mem = decide.Called(s.mem, now-sent, now)
	return now - sent
}
