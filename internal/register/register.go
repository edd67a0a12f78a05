// Package register mirrors the healthy dbs of a cluster into a service catalog,
// for clients that only read. It decides what to register; package consul
// talks to the catalog. It never writes to the cluster's store.
//
// Start with Run; Wanted and Compare are pure.
package register

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"stolon/internal/cluster"
)

// A Service is one db as clients find it.
type Service struct {
	ID      string // uid of the db
	Name    string // of the cluster
	Address string
	Port    int
	Tags    []string
	Master  bool
	// Foreign: another agent has it, so only that one can remove it.
	Foreign bool
}

// Equal reports whether clients see the same; the order of tags counts.
func (s Service) Equal(o Service) bool {
	return s.ID == o.ID && s.Name == o.Name && s.Address == o.Address && s.Port == o.Port && slices.Equal(s.Tags, o.Tags)
}

// Options are what to register.
type Options struct {
	ClusterName           string
	Master                bool // the master too
	MasterTags, SlaveTags []string
	Pause                 time.Duration // between passes
	Log                   *zap.Logger
	Catalog               Catalog
	Read                  func(context.Context) (*cluster.ClusterData, error)
}

// mirror makes passes, and remembers what it has told.
type mirror struct {
	Options
	skippedMaster, foreign bool
}

// A Catalog is where services are registered.
type Catalog interface {
	// Services lists those with the name.
	Services(ctx context.Context, name string) ([]Service, error)
	Register(ctx context.Context, s Service) error
	Deregister(ctx context.Context, id string) error
}

// Tags splits a list at its commas and nowhere else: "" is one empty tag.
func Tags(list string) []string { return strings.Split(list, ",") }

// NewService is the db as a service. Its port must be a number.
func NewService(clusterName string, db *cluster.DB, tags []string, master bool) (Service, error) {
	port, err := strconv.ParseUint(db.Status.Port, 10, 16)
	if err != nil {
		return Service{}, fmt.Errorf("invalid database port '%s' for %s with uid %s", db.Status.Port, clusterName, db.UID)
	}
	return Service{ID: db.UID, Name: clusterName, Address: db.Status.ListenAddress, Port: int(port), Tags: tags, Master: master}, nil
}

// Wanted are the services of the healthy dbs, by uid. A db that can't be one is
// left out and named in the error.
func (o Options) Wanted(cd *cluster.ClusterData) ([]Service, error) {
	var out []Service
	var errs []error
	for _, uid := range cluster.SortedKeys(cd.DBs) {
		db := cd.DBs[uid]
		if db == nil || !db.Status.Healthy {
			continue
		}
		tags, master := o.SlaveTags, uid == cd.Cluster.Status.Master
		if master {
			tags = o.MasterTags
		}
		s, err := NewService(o.ClusterName, db, tags, master)
		switch {
		case err != nil:
			errs = append(errs, err)
		case !master || o.Master:
			out = append(out, s)
		}
	}
	return out, errors.Join(errs...)
}

// Compare tells what is to be done so that there is what is wanted. What
// differs is removed and added. What another agent has is left to it.
func Compare(there, wanted []Service) (remove, add []Service) {
	for _, t := range there {
		if !t.Foreign && !slices.ContainsFunc(wanted, t.Equal) {
			remove = append(remove, t)
		}
	}
	for _, w := range wanted {
		if !slices.ContainsFunc(there, func(t Service) bool { return t.ID == w.ID && (t.Foreign || t.Equal(w)) }) {
			add = append(add, w)
		}
	}
	return remove, add
}

// Run makes passes until ctx ends.
func Run(ctx context.Context, o Options) {
	m := mirror{Options: o}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := m.pass(ctx); err != nil && ctx.Err() == nil {
			o.Log.Error(err.Error())
		}
		timer.Reset(o.Pause)
	}
}

func (m *mirror) pass(ctx context.Context) error {
	there, err := m.Catalog.Services(ctx, m.ClusterName)
	if err != nil {
		return fmt.Errorf("unable to get info about existing services: %w", err)
	}
	cd, err := m.Read(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("cannot get cluster data: %w", err)
	case cd == nil:
		return errors.New("cannot get cluster data: no cluster data available skipping")
	case cd.Cluster == nil:
		return errors.New("cannot get service infos: cluster data not available skipping")
	}
	if !m.Master && !m.skippedMaster {
		m.skippedMaster = true
		m.Log.Info("skipping registering master")
	}
	wanted, err := m.Wanted(cd)
	if err != nil {
		m.Log.Error(err.Error())
	}
	if slices.ContainsFunc(there, func(s Service) bool { return s.Foreign }) && !m.foreign {
		m.foreign = true
		m.Log.Warn("another agent has services of this cluster, which are left to it: run stolonctl register against one agent", zap.String("service", m.ClusterName))
	}
	remove, add := Compare(there, wanted)
	for _, s := range remove {
		if err := m.Catalog.Deregister(ctx, s.ID); err != nil {
			m.Log.Error(fmt.Sprintf("unable to deregister %s with uid %s as %v", s.Name, s.ID, s.Tags), zap.Error(err))
			continue
		}
		m.Log.Info(fmt.Sprintf("successfully deregistered %s with uid %s as %v", s.Name, s.ID, s.Tags))
	}
	for _, s := range add {
		if err := m.Catalog.Register(ctx, s); err != nil {
			m.Log.Error(fmt.Sprintf("unable to register %s with uid %s as %v", s.Name, s.ID, s.Tags), zap.Error(err))
			continue
		}
		m.Log.Info(fmt.Sprintf("successfully registered %s with uid %s as %v", s.Name, s.ID, s.Tags))
	}
	return nil
}
