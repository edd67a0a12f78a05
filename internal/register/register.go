// Package register says which services a service registry should have for a
// cluster, and what to change when it has others. It is what "stolonctl
// register" goes by. It does no I/O.
//
// Start with Wanted and Compare.
package register

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"stolon/internal/cluster"
)

// Service is a DB as a registry has it. The ID is the DB's UID, the name the
// cluster's.
type Service struct {
	ID, Name string
	Address  string
	Port     int
	Tags     []string
}

// Endpoint is where the registry checks that the service answers.
func (s Service) Endpoint() string { return net.JoinHostPort(s.Address, strconv.Itoa(s.Port)) }

func (s Service) equal(o Service) bool {
	return s.ID == o.ID && s.Name == o.Name && s.Address == o.Address && s.Port == o.Port && slices.Equal(s.Tags, o.Tags)
}

// Options is how a cluster is to be registered.
type Options struct {
	Cluster    string // its name
	MasterTags []string
	SlaveTags  []string
	Master     bool // register the master too
}

// Tags splits the value of a flag. Nothing is trimmed, and an empty value is
// one empty tag, as in 0.17.
func Tags(flag string) []string { return strings.Split(flag, ",") }

// Wanted returns the services of the healthy DBs, by ID. The error tells of
// those that can't be registered; unlike in 0.17 they keep nobody else out. It
// returns no services only where there is no cluster data to go by.
func Wanted(cd *cluster.ClusterData, o Options) ([]Service, error) {
	if cd == nil {
		return nil, errors.New("no cluster data available")
	}
	if cd.Cluster == nil {
		return nil, errors.New("cluster data not available")
	}
	wanted := []Service{}
	var bad []error
	for _, uid := range slices.Sorted(maps.Keys(cd.DBs)) {
		db := cd.DBs[uid]
		master := uid == cd.Cluster.Status.Master
		if !db.Status.Healthy || master && !o.Master {
			continue
		}
		s := Service{ID: uid, Name: o.Cluster, Address: db.Status.ListenAddress, Tags: o.SlaveTags}
		if master {
			s.Tags = o.MasterTags
		}
		var err error
		if s.Port, err = strconv.Atoi(db.Status.Port); err != nil {
			bad = append(bad, fmt.Errorf("invalid database port '%s' for %s with uid %s", db.Status.Port, o.Cluster, uid))
			continue
		}
		wanted = append(wanted, s)
	}
	return wanted, errors.Join(bad...)
}

// Change is what makes a registry right: first Remove, then Add.
type Change struct {
	Remove, Add []Service
}

// Compare returns what is to change where there is present and wanted should
// be. A service that only differs is added over the present one: 0.17 removed
// it first, so a change of role took it from its clients for a moment.
func Compare(present, wanted []Service) Change {
	var c Change
	for _, p := range present {
		if !slices.ContainsFunc(wanted, func(w Service) bool { return w.ID == p.ID }) {
			c.Remove = append(c.Remove, p)
		}
	}
	for _, w := range wanted {
		if !slices.ContainsFunc(present, w.equal) {
			c.Add = append(c.Add, w)
		}
	}
	return c
}
