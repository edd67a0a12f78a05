package register

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"stolon/internal/cluster"
)

func db(uid, port string, healthy bool) *cluster.DB {
	return &cluster.DB{UID: uid, Spec: &cluster.DBSpec{}, Status: cluster.DBStatus{Healthy: healthy, ListenAddress: "host-" + uid, Port: port}}
}

// REG-S1
func TestADBAsAService(t *testing.T) {
	got, err := NewService("test", db("u1", "5432", true), []string{"a", "b"}, true)
	want := Service{ID: "u1", Name: "test", Address: "host-u1", Port: 5432, Tags: []string{"a", "b"}, Master: true}
	if err != nil || !got.Equal(want) || !got.Master {
		t.Errorf("NewService = %+v, %v, want %+v", got, err, want)
	}
	if _, err := NewService("test", db("uid", "cat", true), nil, false); err == nil || err.Error() != "invalid database port 'cat' for test with uid uid" {
		t.Errorf("a bad port: %v", err)
	}
}

// REG-S2
func TestEqualServices(t *testing.T) {
	base := Service{ID: "i", Name: "n", Address: "a", Port: 1, Tags: []string{"x", "y"}}
	if same := base; !base.Equal(same) {
		t.Error("a service is not equal to itself")
	}
	for what, edit := range map[string]func(*Service){
		"id":      func(s *Service) { s.ID = "j" },
		"name":    func(s *Service) { s.Name = "m" },
		"address": func(s *Service) { s.Address = "b" },
		"port":    func(s *Service) { s.Port = 2 },
		"tags":    func(s *Service) { s.Tags = []string{"y", "x"} },
	} {
		other := base
		if edit(&other); base.Equal(other) {
			t.Errorf("another %s makes no difference", what)
		}
	}
}

// REG-S3
func TestCompare(t *testing.T) {
	a, b := Service{ID: "a", Tags: []string{"master"}}, Service{ID: "b", Tags: []string{"slave"}}
	a2, foreign := a, b
	a2.Tags, foreign.Foreign = []string{"slave"}, true
	for name, tt := range map[string]struct{ there, wanted, remove, add []Service }{
		"nothing":                            {},
		"only new":                           {nil, []Service{a}, nil, []Service{a}},
		"only gone":                          {[]Service{a}, nil, []Service{a}, nil},
		"the same":                           {[]Service{a}, []Service{a}, nil, nil},
		"one gone, one new":                  {[]Service{a}, []Service{b}, []Service{a}, []Service{b}},
		"changed tags":                       {[]Service{a}, []Service{a2}, []Service{a}, []Service{a2}},
		"another agent's is left to it":      {[]Service{foreign}, []Service{a}, nil, []Service{a}},
		"nor is it registered a second time": {[]Service{foreign}, []Service{b}, nil, nil},
	} {
		remove, add := Compare(tt.there, tt.wanted)
		if !slices.EqualFunc(remove, tt.remove, Service.Equal) || !slices.EqualFunc(add, tt.add, Service.Equal) {
			t.Errorf("%s: remove %v add %v, want %v and %v", name, remove, add, tt.remove, tt.add)
		}
	}
}

// REG-S4
func TestTags(t *testing.T) {
	for in, want := range map[string][]string{"": {""}, "a": {"a"}, "a, b": {"a", " b"}, "a,,b": {"a", "", "b"}} {
		if got := Tags(in); !slices.Equal(got, want) {
			t.Errorf("Tags(%q) = %q, want %q", in, got, want)
		}
	}
}

// catalog is one of variables.
type catalog struct {
	there []Service
	err   error
	calls []string
}

func (c *catalog) Services(context.Context, string) ([]Service, error) { return c.there, c.err }
func (c *catalog) Register(_ context.Context, s Service) error {
	c.calls = append(c.calls, "+"+s.ID+" "+strings.Join(s.Tags, ","))
	return c.err
}

func (c *catalog) Deregister(_ context.Context, id string) error {
	c.calls = append(c.calls, "-"+id)
	return c.err
}

// REG-P1 to REG-P5, REG-CL4
func TestAPass(t *testing.T) {
	slave := func(id string) Service {
		return Service{ID: id, Name: "test", Address: "host-" + id, Port: 5432, Tags: []string{"slave"}}
	}
	master := slave("m")
	master.Tags = []string{"master"}
	for name, tt := range map[string]struct {
		dbs    []*cluster.DB
		there  []Service
		master bool
		calls  string
	}{
		"no dbs: what is there goes":       {nil, []Service{slave("a"), slave("b")}, false, "-a -b"},
		"nothing there: the healthy come":  {[]*cluster.DB{db("a", "5432", true), db("b", "5432", false)}, nil, false, "+a slave"},
		"only the surplus goes":            {[]*cluster.DB{db("a", "5432", true)}, []Service{slave("a"), slave("b")}, false, "-b"},
		"the master goes":                  {[]*cluster.DB{db("m", "5432", true)}, []Service{master}, false, "-m"},
		"also under another id":            {[]*cluster.DB{db("m", "5432", true)}, []Service{slave("old")}, false, "-old"},
		"the master comes":                 {[]*cluster.DB{db("m", "5432", true)}, []Service{slave("gone")}, true, "-gone +m master"},
		"a new master changes its tags":    {[]*cluster.DB{db("m", "5432", true)}, []Service{slave("m")}, true, "-m +m master"},
		"a bad port keeps only itself out": {[]*cluster.DB{db("a", "cat", true), db("b", "5432", true)}, nil, false, "+b slave"},
		"all is as it should be: no calls": {[]*cluster.DB{db("a", "5432", true), db("m", "5432", true)}, []Service{slave("a"), master}, true, ""},
	} {
		cd := &cluster.ClusterData{Cluster: &cluster.Cluster{Status: cluster.ClusterStatus{Master: "m"}}, DBs: map[string]*cluster.DB{}}
		for _, d := range tt.dbs {
			cd.DBs[d.UID] = d
		}
		c := &catalog{there: tt.there}
		o := mirror{Options: Options{
			ClusterName: "test", Master: tt.master, MasterTags: []string{"master"}, SlaveTags: []string{"slave"}, Log: zap.NewNop(), Catalog: c,
			Read: func(context.Context) (*cluster.ClusterData, error) { return cd, nil },
		}}
		if err := o.pass(context.Background()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := strings.Join(c.calls, " "); got != tt.calls {
			t.Errorf("%s: %q, want %q", name, got, tt.calls)
		}
	}
}

// REG-CL1 to REG-CL3, REG-D4
func TestAPassWithoutACluster(t *testing.T) {
	fire := errors.New("fire")
	for want, tt := range map[string]struct {
		catalog error
		data    *cluster.ClusterData
		read    error
	}{
		"unable to get info about existing services: fire":              {fire, nil, nil},
		"cannot get cluster data: fire":                                 {nil, nil, fire},
		"cannot get cluster data: no cluster data available skipping":   {nil, nil, nil},
		"cannot get service infos: cluster data not available skipping": {nil, &cluster.ClusterData{}, nil},
	} {
		c := &catalog{there: []Service{{ID: "a"}}, err: tt.catalog}
		o := mirror{Options: Options{Log: zap.NewNop(), Catalog: c, Read: func(context.Context) (*cluster.ClusterData, error) { return tt.data, tt.read }}}
		if err := o.pass(context.Background()); err == nil || err.Error() != want {
			t.Errorf("pass = %v, want %s", err, want)
		}
		if len(c.calls) > 0 {
			t.Errorf("%s: %v", want, c.calls)
		}
	}
}

func TestWhatIsDoneIsLoggedIn017sWords(t *testing.T) {
	core, logs := observer.New(zap.InfoLevel)
	cd := &cluster.ClusterData{Cluster: &cluster.Cluster{}, DBs: map[string]*cluster.DB{"a": db("a", "5432", true)}}
	o := mirror{Options: Options{
		ClusterName: "test", SlaveTags: []string{"slave"}, Log: zap.New(core), Catalog: &catalog{there: []Service{{ID: "b", Name: "test", Tags: []string{"x"}}}},
		Read: func(context.Context) (*cluster.ClusterData, error) { return cd, nil },
	}}
	for range 2 {
		if err := o.pass(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, e := range logs.All() {
		got = append(got, e.Message)
	}
	done := []string{"successfully deregistered test with uid b as [x]", "successfully registered test with uid a as [slave]"}
	if want := slices.Concat([]string{"skipping registering master"}, done, done); !slices.Equal(got, want) {
		t.Errorf("logged %q, want %q", got, want)
	}
}
