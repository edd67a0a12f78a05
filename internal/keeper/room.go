package keeper

import (
	"context"
	"errors"
	"fmt"

	"go.uber.org/zap"

	"stolon/internal/postgresql"
)

// makeRoom sees to it that a copy has room beside the old data, or, where the
// operator allows that, in its place. With neither it is refused before it
// fills the disk. It returns what the copy must know of the source.
func (k *Keeper) makeRoom(ctx context.Context, from postgresql.Source) (postgresql.Source, error) {
	s, err := k.o.Instance.Space(ctx, k.asSuperuser(from))
	if err != nil {
		return from, err
	}
	from.Tablespaces = s.Tablespaces
	removeFirst, why := room(s, k.o.ResyncWithoutAside)
	k.set(func(s *shared) { s.refuses = why }) // "stolonctl status" shows it
	if why != "" {
		wake(k.wakePublish)
		return from, errors.New(why)
	}
	if !removeFirst {
		return from, nil
	}
	k.log.Warn("removing the old data directory before the copy is made, as --resync-without-aside allows",
		zap.Uint64("needed", s.Needed), zap.Uint64("free", s.Free), zap.Uint64("old", s.Own))
	if err := k.o.Instance.SetAside(ctx); err != nil {
		return from, err
	}
	return from, k.o.Instance.DropAside(ctx)
}

// room tells whether the old data must be removed before a copy is made, and
// why the copy can't be made, "" when it can.
func room(s postgresql.Space, withoutAside bool) (removeFirst bool, why string) {
	inPlace := s.Needed <= s.Free+s.Own
	switch {
	case s.Needed <= s.Free:
		return false, ""
	case withoutAside && inPlace:
		return true, ""
	}
	why = fmt.Sprintf("not copying: the copy needs %s beside the old data, and %s has %s free; make room there", megabytes(s.Needed), s.Path, megabytes(s.Free))
	if inPlace {
		why += fmt.Sprintf(", or start the keeper with --resync-without-aside, which removes the old data (%s) before the copy is there", megabytes(s.Own))
	}
	return false, why
}

func megabytes(n uint64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
