package store_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"stolon/internal/cluster"
	"stolon/internal/store"
	"stolon/internal/store/memory"
)

func TestKeys(t *testing.T) {
	tests := []struct{ prefix, want string }{
		{"stolon/cluster", "stolon/cluster/main/"},
		{"/stolon//cluster/", "/stolon/cluster/main/"},
		{"./a/../b", "b/main/"},
		{"", "main/"},
	}
	for _, tt := range tests {
		if got := store.NewClient(nil, tt.prefix, "main").Base(); got != tt.want {
			t.Errorf("NewClient(%q, main).Base() = %q, want %q", tt.prefix, got, tt.want)
		}
	}
	c := store.NewClient(nil, "p", "c")
	for got, want := range map[string]string{
		c.ClusterDataKey():  "p/c/clusterdata",
		c.KeeperKey("k"):    "p/c/keepers/info/k",
		c.SentinelKey("s"):  "p/c/sentinels/info/s",
		c.ProxyKey("p"):     "p/c/proxies/info/p",
		c.ElectionKey():     "p/c/sentinel-leader",
		c.ExtKey("pings/k"): "p/c/ext/pings/k",
	} {
		if got != want {
			t.Errorf("key %q, want %q", got, want)
		}
	}
}

func client(hook memory.Hook) *store.Client {
	return store.NewClient(memory.New().Client("test", hook), "p", "c")
}

func put(t *testing.T, c *store.Client, key, value string) {
	t.Helper()
	if _, err := c.Commit(t.Context(), nil, []store.Op{{Key: key, Value: []byte(value)}}); err != nil {
		t.Fatal(err)
	}
}

func TestState(t *testing.T) {
	c := client(nil)
	put(t, c, c.ClusterDataKey(), `{"formatVersion":1}`)
	put(t, c, c.KeeperKey("k0"), `{"uid":"inside"}`)
	put(t, c, c.KeeperKey("k1"), `not JSON`)
	put(t, c, c.KeeperKey("k2"), `{}`)
	put(t, c, c.ProxyKey("p0"), `{"UID":"p0","ProxyTimeout":15000000000}`)
	put(t, c, c.SentinelKey("s0"), `{"UID":"s0"}`)
	put(t, c, c.ExtKey("a/b"), `x`)
	put(t, c, c.ElectionKey()+"/1f", `s0`)
	put(t, c, "p/c2/clusterdata", `not ours`)

	st, err := c.State(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Data == nil || st.DataErr != nil || st.DataRevision == 0 || st.Revision < st.DataRevision {
		t.Errorf("data = %v, %v at %d of %d", st.Data, st.DataErr, st.DataRevision, st.Revision)
	}
	if got := cluster.SortedKeys(st.Keepers); !slices.Equal(got, []string{"inside"}) {
		t.Errorf("keepers = %v, want the uid inside", got)
	}
	if got := st.Proxies["p0"].ProxyTimeout; got != 15*time.Second {
		t.Errorf("ProxyTimeout = %s", got)
	}
	if got := string(st.Ext["a/b"].Value); got != "x" {
		t.Errorf("ext a/b = %q", got)
	}
	if got := cluster.SortedKeys(st.Undecodable); !slices.Equal(got, []string{"p/c/keepers/info/k1", "p/c/keepers/info/k2"}) {
		t.Errorf("undecodable = %v, want the two bad infos only", got)
	}
	put(t, c, c.ClusterDataKey(), `{"formatVersion":7}`)
	st, err = c.State(t.Context())
	if err != nil || st.Data != nil || !errors.Is(st.DataErr, store.ErrUnsupportedFormat) || len(st.Proxies) != 1 {
		t.Errorf("state with unusable data = %+v, %v, want the infos and the reason", st, err)
	}
}

func TestClusterData(t *testing.T) {
	c := client(nil)
	if cd, rev, err := c.ClusterData(t.Context()); cd != nil || rev != 0 || err != nil {
		t.Errorf("of an empty store = %v, %d, %v", cd, rev, err)
	}
	first := cluster.New("uid", &cluster.Spec{}, time.Time{})
	rev, err := c.PutClusterData(t.Context(), first, 0, nil, store.Op{Key: c.ExtKey("x"), Value: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutClusterData(t.Context(), first, 0, nil); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a second creation = %v, want ErrConflict", err)
	}
	if _, err := c.PutClusterData(t.Context(), first, rev, []store.Condition{{Key: c.ExtKey("x")}}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a failing further condition = %v, want ErrConflict", err)
	}
	cd, got, err := c.ClusterData(t.Context())
	if err != nil || got != rev || cd.Cluster.UID != "uid" {
		t.Errorf("ClusterData() = %+v, %d, %v, want what was written at %d", cd, got, err, rev)
	}
}

func TestUpdateEndsAtAnErrorOfEditOrStore(t *testing.T) {
	c := client(nil)
	put(t, c, c.ClusterDataKey(), `{"formatVersion":1}`)
	errNo := errors.New("no")
	if err := c.Update(t.Context(), func(*cluster.ClusterData) error { return errNo }); !errors.Is(err, errNo) {
		t.Errorf("Update() = %v, want edit's error", err)
	}
	down := client(func(_ context.Context, r memory.Request) error {
		if r.Kind == memory.Commit {
			return errNo
		}
		return nil
	})
	if err := down.Update(t.Context(), func(*cluster.ClusterData) error { return nil }); !errors.Is(err, errNo) {
		t.Errorf("Update() = %v, want the store's error", err)
	}
}
