package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"stolon/internal/cluster"
)

// MinTTL is the shortest time to live of an info key, as in 0.17.
const MinTTL = 20 * time.Second

// Client reads and writes one cluster's keys.
type Client struct {
	Backend
	base string
}

// NewClient returns a client for the cluster below prefix, such as
// "stolon/cluster". Slashes are cleaned; a leading one is kept, since etcd
// tells such keys apart.
func NewClient(b Backend, prefix, clusterName string) *Client {
	return &Client{Backend: b, base: path.Join(prefix, clusterName)}
}

// Keys of a cluster.

func (c *Client) Base() string                { return c.base + "/" }
func (c *Client) ClusterDataKey() string      { return c.base + "/clusterdata" }
func (c *Client) KeeperKey(u string) string   { return c.base + "/keepers/info/" + u }
func (c *Client) SentinelKey(u string) string { return c.base + "/sentinels/info/" + u }
func (c *Client) ProxyKey(u string) string    { return c.base + "/proxies/info/" + u }

// ElectionKey is the prefix of the sentinels' election.
func (c *Client) ElectionKey() string { return c.base + "/sentinel-leader" }

// ExtKey is the key of a feature that 0.17 doesn't have. 0.17 never looks below ext/.
func (c *Client) ExtKey(name string) string { return c.base + "/ext/" + name }

// State is everything below a cluster's base, decoded.
type State struct {
	// Revision of the snapshot, for telling older from newer, and that of the
	// key that was written last, by which a watch's copy compares with a read.
	Revision, Newest int64
	// Data is nil when there is no cluster data. DataErr tells why it could
	// not be used although it is there; Data is nil then too.
	Data         *cluster.ClusterData
	DataRevision int64 // 0 when the key does not exist
	DataErr      error
	Keepers      map[string]cluster.KeeperInfo // by the UID inside
	Sentinels    map[string]cluster.SentinelInfo
	Proxies      map[string]cluster.ProxyInfo
	Ext          map[string]KV // by name below ext/
	// Undecodable are the keys whose value could not be read: one bad info must
	// not blind everybody to the others.
	Undecodable map[string]error
}

// State reads everything of the cluster at one moment.
func (c *Client) State(ctx context.Context) (*State, error) {
	snap, err := c.List(ctx, c.Base())
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", c.Base(), err)
	}
	return c.Decode(snap), nil
}

// Decode makes a State of a snapshot of Base.
func (c *Client) Decode(snap Snapshot) *State {
	st := &State{
		Revision:    snap.Revision,
		Keepers:     map[string]cluster.KeeperInfo{},
		Sentinels:   map[string]cluster.SentinelInfo{},
		Proxies:     map[string]cluster.ProxyInfo{},
		Ext:         map[string]KV{},
		Undecodable: map[string]error{},
	}
	for _, kv := range snap.KVs {
		st.Newest = max(st.Newest, kv.Revision)
		rel := strings.TrimPrefix(kv.Key, c.Base())
		var err error
		switch {
		case rel == "clusterdata":
			st.DataRevision = kv.Revision
			st.Data, st.DataErr = DecodeClusterData(kv.Value)
		case strings.HasPrefix(rel, "keepers/info/"):
			err = decodeInto(st.Keepers, kv.Value, func(i cluster.KeeperInfo) string { return i.UID })
		case strings.HasPrefix(rel, "sentinels/info/"):
			err = decodeInto(st.Sentinels, kv.Value, func(i cluster.SentinelInfo) string { return i.UID })
		case strings.HasPrefix(rel, "proxies/info/"):
			err = decodeInto(st.Proxies, kv.Value, func(i cluster.ProxyInfo) string { return i.UID })
		case strings.HasPrefix(rel, "ext/"):
			st.Ext[strings.TrimPrefix(rel, "ext/")] = kv
		}
		if err != nil {
			st.Undecodable[kv.Key] = err
		}
	}
	return st
}

func decodeInto[T any](m map[string]T, value []byte, uid func(T) string) error {
	var v T
	if err := json.Unmarshal(value, &v); err != nil {
		return err
	}
	if uid(v) == "" {
		return errors.New("no uid inside")
	}
	m[uid(v)] = v
	return nil
}

// ErrUnsupportedFormat reports cluster data of a format version that this
// program doesn't know.
var ErrUnsupportedFormat = errors.New("unsupported cluster data format version")

// DecodeClusterData decodes the stored form and checks that it is one, not
// what it says. JSON null is no cluster data: nil, nil.
func DecodeClusterData(value []byte) (*cluster.ClusterData, error) {
	var cd *cluster.ClusterData
	if err := json.Unmarshal(value, &cd); err != nil {
		return nil, fmt.Errorf("decode cluster data: %w", err)
	}
	if cd == nil {
		return nil, nil
	}
	if cd.FormatVersion != cluster.FormatVersion {
		return nil, fmt.Errorf("%w %d", ErrUnsupportedFormat, cd.FormatVersion)
	}
	// Everybody walks these maps; a null in one would stop every process.
	for _, uid := range cluster.SortedKeys(cd.Keepers) {
		if cd.Keepers[uid] == nil {
			return nil, fmt.Errorf("decode cluster data: keeper %q is null", uid)
		}
	}
	for _, uid := range cluster.SortedKeys(cd.DBs) {
		if cd.DBs[uid] == nil {
			return nil, fmt.Errorf("decode cluster data: db %q is null", uid)
		}
	}
	return cd, nil
}

// ClusterData reads the cluster data: nil with revision 0 when the key does
// not exist, nil with its revision when it holds JSON null.
func (c *Client) ClusterData(ctx context.Context) (*cluster.ClusterData, int64, error) {
	kv, err := c.Get(ctx, c.ClusterDataKey())
	if err != nil {
		return nil, 0, fmt.Errorf("read cluster data: %w", err)
	}
	if kv == nil {
		return nil, 0, nil
	}
	cd, err := DecodeClusterData(kv.Value)
	return cd, kv.Revision, err
}

// PutClusterData writes the cluster data if it still has revision (0: does not
// exist) and the other conditions hold, together with ops. It returns the new
// revision, or ErrConflict.
func (c *Client) PutClusterData(ctx context.Context, cd *cluster.ClusterData, revision int64, conds []Condition, ops ...Op) (int64, error) {
	conds = append([]Condition{{Key: c.ClusterDataKey(), Revision: revision}}, conds...)
	rev, err := c.Commit(ctx, conds, append([]Op{{Key: c.ClusterDataKey(), Value: Encode(cd)}}, ops...))
	if err != nil {
		return 0, fmt.Errorf("write cluster data: %w", err)
	}
	return rev, nil
}

// Update reads the cluster data, applies edit and writes it back, starting
// over when another writer got there first. It ends with ctx.
func (c *Client) Update(ctx context.Context, edit func(*cluster.ClusterData) error) error {
	for {
		cd, rev, err := c.ClusterData(ctx)
		if err != nil {
			return err
		}
		if err := edit(cd); err != nil {
			return err
		}
		if _, err := c.PutClusterData(ctx, cd, rev, nil); !errors.Is(err, ErrConflict) {
			return err
		}
	}
}

// Encode returns the stored form of v, one of package cluster's types, all of
// which can be encoded.
func Encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("store: encode: " + err.Error())
	}
	return b
}
