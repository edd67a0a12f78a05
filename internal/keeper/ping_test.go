package keeper

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/store"
	"stolon/internal/store/memory"
)

// ping writes a ping and waits for the answer, "" if none comes in time.
func (b *bench) ping(nonce, boot string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
	defer cancel()
	infos := b.client.Watch(ctx, b.client.KeeperKey("keeper1"))
	<-infos
	p := cluster.PingRequest{ClusterUID: "cluster1", DB: "db1", BootUUID: boot, Nonce: nonce}
	if _, err := b.client.Commit(context.Background(), nil, []store.Op{{Key: b.client.ExtKey(cluster.ExtPings + "keeper1"), Value: store.Encode(p)}}); err != nil {
		b.t.Fatal(err)
	}
	for ch := range infos {
		for _, kv := range ch.Puts {
			var info cluster.KeeperInfo
			if err := json.Unmarshal(kv.Value, &info); err != nil {
				b.t.Fatal(err)
			}
			if info.Pong != "" {
				return info.Pong
			}
		}
	}
	return ""
}

// K12: a keeper answers a ping although PostgreSQL is silent and although its
// own publication hangs; not one that is meant for another process.
func TestAKeeperAnswersPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		var armed, stuck atomic.Bool
		b.hook = func(ctx context.Context, r memory.Request) error {
			if r.Kind == memory.Commit && r.Stage == memory.Before && r.Key == b.client.KeeperKey("keeper1") && armed.CompareAndSwap(true, false) {
				stuck.Store(true)
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		b.create(master(), nil)
		b.start()
		defer b.stop()
		settle(10 * time.Second)
		if got := b.ping("n1", "boot1"); got != "n1" {
			t.Errorf("answer to n1 = %q", got)
		}
		if got := b.ping("n2", "boot0"); got == "n2" {
			t.Error("a ping of another process was answered")
		}
		b.pg.set(func() { b.pg.silent = true })
		armed.Store(true)
		for !stuck.Load() {
			settle(100 * time.Millisecond)
		}
		if got := b.ping("n3", "boot1"); got != "n3" {
			t.Errorf("answer while PostgreSQL is silent and a publication hangs = %q, want n3", got)
		}
		b.pg.set(func() { b.pg.silent = false })
	})
}
