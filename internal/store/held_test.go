package store_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"stolon/internal/store"
	"stolon/internal/store/memory"
)

func TestHeldLeaseIsRenewedWhileItCanBe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		b := memory.New().Client("a", nil)
		defer b.Close()
		var h store.Held
		keep := func(ttl time.Duration) store.Lease {
			t.Helper()
			l, err := h.Keep(ctx, b, ttl)
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		if err := h.Revoke(ctx); err != nil {
			t.Errorf("Revoke without a lease = %v", err)
		}
		first := keep(10 * time.Second)
		time.Sleep(8 * time.Second)
		if l := keep(10 * time.Second); l != first {
			t.Error("a living lease was not renewed but granted anew")
		}
		time.Sleep(8 * time.Second)
		if l := keep(10 * time.Second); l != first {
			t.Error("the renewal did not extend the lease")
		}
		second := keep(20 * time.Second)
		if second == first {
			t.Error("another TTL did not lead to another lease")
		}
		time.Sleep(21 * time.Second)
		third := keep(20 * time.Second)
		if third == second {
			t.Error("a lost lease was kept")
		}
		h.Forget()
		if l := keep(20 * time.Second); l == third {
			t.Error("a forgotten lease was kept")
		}
	})
}
