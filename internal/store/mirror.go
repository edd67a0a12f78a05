package store

// A Mirror is a copy of the keys below a prefix, kept by a Watch's changes. It
// may lag behind the store; it is for noticing, never for acting.
type Mirror struct {
	kvs      map[string]KV
	revision int64
	synced   bool
}

// Apply takes in one change. A change older than what the mirror holds is
// dropped, unless it is a Reset: that one is the truth, also when the store
// was restored and counts anew.
func (m *Mirror) Apply(ch Change) {
	if ch.Revision < m.revision && !ch.Reset {
		return
	}
	if ch.Reset || m.kvs == nil {
		m.kvs = map[string]KV{}
	}
	for _, k := range ch.Deletes {
		delete(m.kvs, k)
	}
	for _, kv := range ch.Puts {
		m.kvs[kv.Key] = kv
	}
	m.revision = ch.Revision
	m.synced = true
}

// Synced reports whether the mirror has seen a first snapshot.
func (m *Mirror) Synced() bool { return m.synced }

// Get returns the key as the mirror holds it, if it does.
func (m *Mirror) Get(key string) (KV, bool) {
	kv, ok := m.kvs[key]
	return kv, ok
}

// Snapshot returns what the mirror holds.
func (m *Mirror) Snapshot() Snapshot {
	return Snapshot{KVs: sortedKVs(m.kvs), Revision: m.revision}
}
