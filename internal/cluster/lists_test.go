package cluster_test

import (
	"slices"
	"testing"

	"stolon/internal/cluster"
)

func TestListsAreComparedWithoutOrder(t *testing.T) {
	tests := []struct {
		a, b []string
		want bool
	}{
		{nil, nil, true},
		{nil, []string{}, true},
		{[]string{"a", "b"}, []string{"b", "a"}, true},
		{[]string{"a", "b"}, []string{"a", "c"}, false},
		{[]string{"a", "a", "b"}, []string{"a", "b", "b"}, false},
		{[]string{"a"}, nil, false},
	}
	for _, tt := range tests {
		if got := cluster.SameSet(tt.a, tt.b); got != tt.want {
			t.Errorf("SameSet(%v, %v) = %t", tt.a, tt.b, got)
		}
	}
	if got := cluster.Intersect([]string{"b", "a", "c"}, []string{"a", "b"}); !slices.Equal(got, []string{"b", "a"}) {
		t.Errorf("Intersect keeps %v", got)
	}
	if got := cluster.Intersect(nil, []string{"a"}); got == nil || len(got) != 0 {
		t.Errorf("Intersect of nothing is %#v, want an empty list", got)
	}
}

func TestTheDBOfAKeeperIsFound(t *testing.T) {
	cd := &cluster.ClusterData{}
	if db := cd.DBOf("k1"); db != nil {
		t.Errorf("in empty data: %+v", db)
	}
	cd.DBs = map[string]*cluster.DB{"db1": {UID: "db1", Spec: &cluster.DBSpec{KeeperUID: "k1"}}}
	if db := cd.DBOf("k2"); db != nil {
		t.Errorf("of another keeper: %+v", db)
	}
	if db := cd.DBOf("k1"); db == nil || db.UID != "db1" {
		t.Errorf("of the keeper: %+v", db)
	}
}
