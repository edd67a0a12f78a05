package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"stolon/internal/cluster"
	"stolon/internal/store"
)

// fixtures returns what 0.17 wrote into its store, by file and key.
func fixtures(t testing.TB) map[string]map[string]json.RawMessage {
	t.Helper()
	files, err := filepath.Glob("testdata/*.store.json")
	if err != nil || len(files) != 2 {
		t.Fatalf("fixtures = %v, %v, want 2 files", files, err)
	}
	all := map[string]map[string]json.RawMessage{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var kvs map[string]json.RawMessage
		if err := json.Unmarshal(b, &kvs); err != nil {
			t.Fatal(err)
		}
		all[f] = kvs
	}
	return all
}

// compact is a value as it lies in the store: the fixtures are indented, and
// 0.17's encoder writes <, > and & escaped.
func compact(t testing.TB, value []byte) []byte {
	t.Helper()
	var b, escaped bytes.Buffer
	if err := json.Compact(&b, value); err != nil {
		t.Fatal(err)
	}
	json.HTMLEscape(&escaped, b.Bytes())
	return escaped.Bytes()
}

func decode[T any](value []byte) ([]byte, error) {
	var v T
	if err := json.Unmarshal(value, &v); err != nil {
		return nil, err
	}
	return store.Encode(v), nil
}

func recodeClusterData(value []byte) ([]byte, error) {
	cd, err := store.DecodeClusterData(value)
	if err != nil {
		return nil, err
	}
	return store.Encode(cd), nil
}

func TestWhat017WroteIsWrittenBackUnchanged(t *testing.T) {
	for file, kvs := range fixtures(t) {
		for key, value := range kvs {
			t.Run(filepath.Base(file)+" "+key, func(t *testing.T) {
				var recode func([]byte) ([]byte, error)
				switch rel := strings.TrimPrefix(key, "stolon/cluster/bench/"); {
				case rel == "clusterdata":
					recode = recodeClusterData
				case strings.HasPrefix(rel, "keepers/info/"):
					recode = decode[cluster.KeeperInfo]
				case strings.HasPrefix(rel, "sentinels/info/"):
					recode = decode[cluster.SentinelInfo]
				case strings.HasPrefix(rel, "proxies/info/"):
					recode = decode[cluster.ProxyInfo]
				case strings.HasPrefix(rel, "sentinel-leader/"):
					t.Skip("a plain uid")
				default:
					t.Fatalf("unknown key %s", key)
				}
				want := compact(t, value)
				got, err := recode(want)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(tree(t, got), tree(t, want)) || !bytes.Equal(got, want) {
					t.Errorf("written back as\n%s\nwant\n%s", got, want)
				}
			})
		}
	}
}

// tree is any JSON with its numbers as they are written.
func tree(t *testing.T, b []byte) any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestStateOfWhat017Wrote(t *testing.T) {
	for file, kvs := range fixtures(t) {
		var snap store.Snapshot
		for _, key := range cluster.SortedKeys(kvs) {
			snap.KVs = append(snap.KVs, store.KV{Key: key, Value: kvs[key], Revision: int64(len(snap.KVs) + 1)})
		}
		c := store.NewClient(nil, "stolon/cluster", "bench")
		st := c.Decode(snap)
		if st.Data == nil || st.DataErr != nil || st.DataRevision != 1 {
			t.Fatalf("%s: data = %v, %v at %d", file, st.Data, st.DataErr, st.DataRevision)
		}
		if len(st.Keepers) != 3 || len(st.Sentinels) != 2 || len(st.Proxies) != 1 || len(st.Undecodable) != 0 {
			t.Errorf("%s: %d keepers, %d sentinels, %d proxies, undecodable %v, want 3, 2, 1, none",
				file, len(st.Keepers), len(st.Sentinels), len(st.Proxies), st.Undecodable)
		}
		if err := st.Data.Check(); err != nil {
			t.Errorf("%s: Check() = %v", file, err)
		}
		for uid, info := range st.Keepers {
			if db := st.Data.DBOf(uid); db == nil || db.UID != info.PostgresState.UID {
				t.Errorf("%s: DBOf(%s) = %v, want that of the report", file, uid, db)
			}
		}
	}
}

func FuzzDecodeClusterData(f *testing.F) {
	for _, kvs := range fixtures(f) {
		f.Add([]byte(kvs["stolon/cluster/bench/clusterdata"]))
	}
	for _, s := range []string{
		"", "null", "{}", "[]", `{"formatVersion":1}`, `{"formatVersion":2}`, `{"formatVersion":1,"dbs":{"a":null},"keepers":{"k":null}}`,
		`{"formatVersion":1,"cluster":{"spec":{"failInterval":"-1s","initMode":"x"}},"dbs":{"a":{"spec":null}},"proxy":null}`,
		`{"formatVersion":1,"cluster":{"spec":{"sleepInterval":0,"pgHBA":[]}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		st := store.NewClient(nil, "p", "c").Decode(store.Snapshot{KVs: []store.KV{
			{Key: "p/c/clusterdata", Value: value, Revision: 1},
			{Key: "p/c/keepers/info/k", Value: value},
			{Key: "p/c/proxies/info/p", Value: value},
			{Key: "p/c/sentinels/info/s", Value: value},
		}})
		if st.Data == nil {
			return
		}
		if err := st.Data.Check(); err == nil {
			st.Data.Master()
			st.Data.DBOf("k")
			st.Data.Cluster.Spec.Settings()
		}
		once := store.Encode(st.Data)
		again, err := store.DecodeClusterData(once)
		if err != nil {
			t.Fatalf("what was decoded can't be decoded again: %v\n%s", err, once)
		}
		if twice := store.Encode(again); !bytes.Equal(once, twice) {
			t.Errorf("encoded\n%s\nthen\n%s", once, twice)
		}
	})
}

func TestDecodeClusterData(t *testing.T) {
	tests := []struct {
		name, value string
		isNil       bool
		err         string
	}{
		{"null is no data", "null", true, ""},
		{"an unknown field is ignored", `{"formatVersion":1,"later":{"a":1}}`, false, ""},
		{"another format version is refused", `{"formatVersion":2}`, true, "unsupported cluster data format version 2"},
		{"no format version is refused", `{}`, true, "unsupported cluster data format version 0"},
		{"a null db is refused", `{"formatVersion":1,"dbs":{"a":null}}`, true, `db "a" is null`},
		{"a null keeper is refused", `{"formatVersion":1,"keepers":{"a":null}}`, true, `keeper "a" is null`},
		{"half a value is refused", `{"formatVersion":1`, true, "unexpected end of JSON input"},
		{"an empty value is refused", ``, true, "unexpected end of JSON input"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cd, err := store.DecodeClusterData([]byte(tt.value))
			if (cd == nil) != tt.isNil || tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Errorf("DecodeClusterData(%s) = %v, %v, want nil %t and error %q", tt.value, cd, err, tt.isNil, tt.err)
			}
		})
	}
	if _, err := store.DecodeClusterData([]byte("{}")); !errors.Is(err, store.ErrUnsupportedFormat) {
		t.Errorf("another format = %v, want ErrUnsupportedFormat", err)
	}
}
