package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"stolon/internal/store"
	"stolon/tests/harness"
)

// The parts of a failover, as a watch of the store sees their ends:
//
//	suspect  somebody says that the master refuses
//	confirm  the route is cut
//	elect    another master is elected, after the proxies have cut
//	promote  it serves as a primary, and the route is written
//	route    a client has committed a row
var parts = []string{"suspect", "confirm", "elect", "promote", "route"}

// A moment is what the store said from then on.
type moment struct {
	at       time.Time
	suspects map[string]bool // dbs
	elected  string
	routed   string
}

// A history is what the store said, when.
type history struct {
	mu      sync.Mutex
	moments []moment
}

// record watches the store until the test ends.
func record(t *harness.Script, c *harness.Cluster) *history {
	h := &history{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	changes := c.Store.Watch(ctx, c.Store.Base())
	go func() {
		defer close(done)
		var m store.Mirror
		for ch := range changes {
			m.Apply(ch)
			h.add(c.Store.Decode(m.Snapshot()))
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return h
}

func (h *history) add(st *store.State) {
	if st.Data == nil || st.Data.Cluster == nil {
		return
	}
	m := moment{at: time.Now(), suspects: map[string]bool{}, elected: st.Data.Cluster.Status.Master, routed: st.Data.Proxy.Spec.MasterDBUID}
	for _, k := range st.Keepers {
		m.suspects[k.Suspect] = true
	}
	for _, p := range st.Proxies {
		m.suspects[p.Suspect] = true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.moments = append(h.moments, m)
}

// phases are the times of the parts since the fault. What did not happen is
// part of the next one, and negative here.
func (h *history) phases(fault time.Time, master string, w *harness.Writer) []time.Duration {
	ends := make([]time.Time, len(parts))
	h.mu.Lock()
	for _, m := range h.moments {
		if m.at.Before(fault) {
			continue
		}
		for i, is := range []bool{
			m.suspects[master] && ends[1].IsZero(),
			m.routed != master,
			m.elected != master,
			m.routed != master && m.routed != "" && m.elected == m.routed,
		} {
			if is && ends[i].IsZero() {
				ends[i] = m.at
			}
		}
	}
	h.mu.Unlock()
	if !ends[3].IsZero() {
		ends[4] = w.FirstSince(ends[3])
	}
	out, last := make([]time.Duration, len(parts)), fault
	for i, at := range ends {
		if at.IsZero() {
			out[i] = -1
			continue
		}
		out[i], last = at.Sub(last), at
	}
	return out
}

// medians are those of each part, where it happened.
func medians(all [][]time.Duration) []time.Duration {
	out := make([]time.Duration, len(parts))
	for i := range parts {
		var of []time.Duration
		for _, p := range all {
			if p[i] >= 0 {
				of = append(of, p[i])
			}
		}
		slices.Sort(of)
		out[i] = -1
		if len(of) > 0 {
			out[i] = median(of)
		}
	}
	return out
}

// median of sorted durations.
func median(d []time.Duration) time.Duration {
	return ((d[(len(d)-1)/2] + d[len(d)/2]) / 2).Round(time.Millisecond)
}

func tell(phases []time.Duration) string {
	var out []string
	for i, d := range phases {
		if d >= 0 {
			out = append(out, fmt.Sprintf("%s %s", parts[i], d.Round(time.Millisecond)))
		}
	}
	return cmp.Or(strings.Join(out, ", "), "no change of master")
}
