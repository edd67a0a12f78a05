package failsafe

import (
	"testing"
	"time"
)

func TestProbe(t *testing.T) {
	for _, b := range []bounds{
		{1, 2, 0b11, 0}, {1, 2, 0b11, 1}, {1, 2, 0b01, 1}, {1, 2, 0b11, 2}, {2, 2, 0b11, 0},{2, 1, 0b1, 0}, {1, 3, 0b11, 1},
	} {
		for _, T := range []int8{2} {
			began := time.Now()
			f := model{plain(T), b}.explore(8_000_000)
			t.Logf("%+v T=%d: %s in %s", b, T, f, time.Since(began))
		}
	}
}
