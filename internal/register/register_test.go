package register

import (
	"reflect"
	"strings"
	"testing"

	"stolon/internal/cluster"
)

var both = Options{Cluster: "test", MasterTags: []string{"master"}, SlaveTags: []string{"slave"}, Master: true}

// dbs is a cluster of healthy DBs with these UIDs and the port 5432; the first
// is the master.
func dbs(uids ...string) *cluster.ClusterData {
	cd := &cluster.ClusterData{Cluster: &cluster.Cluster{}, DBs: map[string]*cluster.DB{}}
	for i, uid := range uids {
		if i == 0 {
			cd.Cluster.Status.Master = uid
		}
		cd.DBs[uid] = &cluster.DB{UID: uid, Status: cluster.DBStatus{Healthy: true, ListenAddress: "127.0.0.1", Port: "5432"}}
	}
	return cd
}

func service(id string, tags ...string) Service {
	return Service{ID: id, Name: "test", Address: "127.0.0.1", Port: 5432, Tags: tags}
}

// REG-S1, REG-CL2 to REG-CL4, REG-P2, REG-P5.
func TestHealthyDBsAreWanted(t *testing.T) {
	slavesOnly := both
	slavesOnly.Master = false
	sick := dbs("db1", "db2")
	sick.DBs["db2"].Status.Healthy = false
	badPort := dbs("db1", "db2")
	badPort.DBs["db1"].Status.Port = "cat"
	tests := []struct {
		name string
		cd   *cluster.ClusterData
		o    Options
		want []Service
		err  string
	}{
		{"no cluster data", nil, both, nil, "no cluster data available"},
		{"no cluster", &cluster.ClusterData{}, both, nil, "cluster data not available"},
		{"no dbs", dbs(), both, []Service{}, ""},
		{"master and standby", dbs("db1", "db2"), both, []Service{service("db1", "master"), service("db2", "slave")}, ""},
		{"without the master", dbs("db1", "db2"), slavesOnly, []Service{service("db2", "slave")}, ""},
		{"healthy ones only", sick, both, []Service{service("db1", "master")}, ""},
		{"a bad port keeps only its own db out", badPort, both, []Service{service("db2", "slave")}, "invalid database port 'cat' for test with uid db1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Wanted(tt.cd, tt.o)
			if !reflect.DeepEqual(got, tt.want) || (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
				t.Errorf("Wanted = %+v, %v, want %+v, %q", got, err, tt.want, tt.err)
			}
		})
	}
}

// REG-S2.
func TestServicesDiffer(t *testing.T) {
	same := service("db1", "a", "b")
	for name, change := range map[string]func(*Service){
		"ID":            func(s *Service) { s.ID = "db2" },
		"name":          func(s *Service) { s.Name = "other" },
		"address":       func(s *Service) { s.Address = "127.0.0.2" },
		"port":          func(s *Service) { s.Port = 1 },
		"tags":          func(s *Service) { s.Tags = []string{"a"} },
		"order of tags": func(s *Service) { s.Tags = []string{"b", "a"} },
	} {
		other := service("db1", "a", "b")
		if !same.equal(other) {
			t.Errorf("%+v and %+v differ, want equal", same, other)
		}
		if change(&other); same.equal(other) {
			t.Errorf("%s: %+v and %+v are equal, want not", name, same, other)
		}
	}
}

// REG-S3, REG-P1 to REG-P5. Other than in 0.17, what only differs is not
// removed first.
func TestCompare(t *testing.T) {
	tests := []struct {
		name            string
		present, wanted string // "id:tag id:tag"
		remove, add     string
	}{
		{"nothing", "", "", "", ""},
		{"only new", "", "db1:slave db2:slave", "", "db1:slave db2:slave"},
		{"only gone", "db1:slave db2:slave", "", "db1:slave db2:slave", ""},
		{"the same", "db1:slave", "db1:slave", "", ""},
		{"one gone, one new", "db1:slave", "db2:slave", "db1:slave", "db2:slave"},
		{"only the surplus", "db1:slave db2:slave", "db1:slave", "db2:slave", ""},
		{"the master under another id", "old:master db2:slave", "db2:slave", "old:master", ""},
		{"a change of role is made in place", "db1:master db2:slave", "db1:slave db2:master", "", "db1:slave db2:master"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Compare(services(tt.present), services(tt.wanted))
			if want := (Change{Remove: services(tt.remove), Add: services(tt.add)}); !reflect.DeepEqual(got, want) {
				t.Errorf("Compare(%q, %q) = %+v, want %+v", tt.present, tt.wanted, got, want)
			}
		})
	}
}

func services(text string) []Service {
	var all []Service
	for _, field := range strings.Fields(text) {
		id, tag, _ := strings.Cut(field, ":")
		all = append(all, service(id, tag))
	}
	return all
}

// REG-S4.
func TestTagsAreSplitAtCommasOnly(t *testing.T) {
	for flag, want := range map[string][]string{"": {""}, "a": {"a"}, "a,b": {"a", "b"}, "a, b c": {"a", " b c"}} {
		if got := Tags(flag); !reflect.DeepEqual(got, want) {
			t.Errorf("Tags(%q) = %q, want %q", flag, got, want)
		}
	}
}

func TestTheEndpointOfAnIPv6AddressHasBrackets(t *testing.T) {
	if got := (Service{Address: "::1", Port: 5432}).Endpoint(); got != "[::1]:5432" {
		t.Errorf("Endpoint() = %q, want [::1]:5432", got)
	}
}
