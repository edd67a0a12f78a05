package keeper

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"stolon/internal/cluster"
)

// lookTimeout bounds the look at a master that was lost; one that is there, or
// whose host is, answers at once.
const lookTimeout = 200 * time.Millisecond

// suspectMaster looks whether the followed db takes connections, once the instance has
// lost it: the sentinel wants to hear of one that refuses them (protocols.md S3).
func (k *Keeper) suspectMaster(ctx context.Context, r report) {
	suspect := ""
	if db, address := k.get().lost(r); db != "" {
		ctx, cancel := context.WithTimeout(ctx, lookTimeout)
		conn, err := k.o.Dial(ctx, address)
		cancel()
		if err == nil {
			conn.Close()
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			suspect = db
		}
	}
	k.set(func(s *shared) { s.suspect = suspect })
}

// lost is the db that the instance should stream from and doesn't, and its
// address; "" when it does, or has never.
func (s shared) lost(r report) (db, address string) {
	own := s.db()
	if own == nil || r.sample == nil || r.sample.Primary || r.sample.ReceiverUp || own.UID != r.dbUID ||
		own.Spec.FollowConfig == nil || own.Spec.FollowConfig.Type != cluster.FollowInternal {
		return "", ""
	}
	followed := s.data.DBs[own.Spec.FollowConfig.DBUID]
	if followed == nil || followed.Status.ListenAddress == "" || followed.Status.Port == "" {
		return "", ""
	}
	return followed.UID, net.JoinHostPort(followed.Status.ListenAddress, followed.Status.Port)
}
