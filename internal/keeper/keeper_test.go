package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"stolon/internal/cluster"
	"stolon/internal/keeper/decide"
	"stolon/internal/postgresql"
	"stolon/internal/store"
	"stolon/internal/store/memory"
)

// bench is one keeper with a fake instance and a store, on virtual time. The
// test plays the sentinel.
type bench struct {
	t      *testing.T
	server *memory.Server
	client *store.Client
	pg     *fake
	files  *memFiles
	logs   *observer.ObservedLogs
	hook   memory.Hook
	boots  int
	end    context.CancelFunc
	done   chan error
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, server: memory.New(), pg: newFake(), files: newFiles()}
	b.client = store.NewClient(b.server.Client("test", nil), "stolon/cluster", "c")
	return b
}

// start starts a keeper process.
func (b *bench) start() {
	b.t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	b.logs = logs
	b.boots++
	uids := 0
	began := time.Now()
	k, err := New(Options{
		UID: "keeper1", DataDir: "/data", ListenAddress: "host1", Port: "5432", AdvertiseAddress: "host1", AdvertisePort: "5432",
		Superuser: Login{User: "postgres", Password: "x", Method: MD5}, Replication: Login{User: "repl", Password: "y", Method: MD5}, CanBeMaster: true, CanBeSynchronousReplica: true,
		Store:    store.NewClient(b.server.Client("keeper1", b.hook), "stolon/cluster", "c"),
		Instance: b.pg, Files: b.files, Clock: func() time.Duration { return time.Since(began) + time.Hour },
		NewUID:   func() string { uids++; return fmt.Sprintf("%04d%04d", b.boots, uids) },
		Dial:     func(context.Context, string) (net.Conn, error) { return nil, errors.New("no network here") },
		BootUUID: fmt.Sprintf("boot%d", b.boots), Log: zap.New(core), StoreTimeout: 5 * time.Second,
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.end, b.done = cancel, make(chan error, 1)
	go func() { b.done <- k.Run(ctx) }()
}

func (b *bench) stop() {
	b.t.Helper()
	b.end()
	if err := <-b.done; err != nil {
		b.t.Error(err)
	}
}

// crash ends the process and leaves the instance as it is.
func (b *bench) crash() {
	b.pg.set(func() {
		b.pg.fails["stop fast"] = errors.New("crashed")
		b.pg.fails["stop immediate"] = errors.New("crashed")
	})
	b.end()
	<-b.done
	b.pg.set(func() { b.pg.fails = map[string]error{} })
}

// edit changes the cluster data.
func (b *bench) edit(f func(cd *cluster.ClusterData)) {
	b.t.Helper()
	if err := b.client.Update(context.Background(), func(cd *cluster.ClusterData) error { f(cd); return nil }); err != nil {
		b.t.Fatal(err)
	}
}

// create writes cluster data with db1 on keeper1 and returns once it is stored.
func (b *bench) create(db1 *cluster.DBSpec, edit func(*cluster.ClusterData)) {
	b.t.Helper()
	mode := cluster.InitNew
	cd := cluster.New("cluster1", &cluster.Spec{InitMode: &mode}, time.Time{})
	cd.Cluster.Status = cluster.ClusterStatus{Phase: cluster.Normal, Master: "db1"}
	cd.Proxy.Spec.MasterDBUID = "db1"
	cd.Keepers["keeper1"] = &cluster.Keeper{UID: "keeper1", Status: cluster.KeeperStatus{BootUUID: "boot1"}}
	if db1 != nil {
		db1.KeeperUID = "keeper1"
		cd.DBs["db1"] = &cluster.DB{UID: "db1", Generation: 1, Spec: db1}
	}
	if edit != nil {
		edit(cd)
	}
	if _, err := b.client.PutClusterData(context.Background(), cd, 0, nil); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) info() cluster.KeeperInfo {
	b.t.Helper()
	kv, err := b.client.Get(context.Background(), b.client.KeeperKey("keeper1"))
	if err != nil || kv == nil {
		b.t.Fatalf("keeper info: %v, %v", kv, err)
	}
	var i cluster.KeeperInfo
	if err := json.Unmarshal(kv.Value, &i); err != nil {
		b.t.Fatal(err)
	}
	return i
}

func (b *bench) file(name string) string {
	data, _ := b.files.Load(name)
	return string(data)
}

func (b *bench) wantCalls(what string, want ...string) {
	b.t.Helper()
	if got := b.pg.took(); !slices.Equal(got, want) {
		b.t.Errorf("%s: the instance was told\n%q, want\n%q", what, got, want)
	}
}

// settle lets d pass.
func settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func master() *cluster.DBSpec {
	return &cluster.DBSpec{InitMode: cluster.InitNew, Role: cluster.RoleMaster, Followers: []string{}}
}

// running starts a keeper whose db1 is a running primary.
func running(t *testing.T, edit func(*cluster.ClusterData)) *bench {
	b := newBench(t)
	b.create(master(), edit)
	b.start()
	settle(3 * time.Second)
	b.pg.took()
	b.edit(func(cd *cluster.ClusterData) { cd.DBs["db1"].Spec.InitMode = cluster.InitNone })
	return b
}

func TestANewDBIsMadeStartedAndReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.create(master(), nil)
		b.start()
		defer b.stop()
		settle(time.Second)
		b.wantCalls("init", "aside", "initdb", "start", "roles", "stop fast", "start", "reload")
		if got, want := b.file("dbstate"), `{"UID":"db1","Generation":1,"Initializing":false,"InitPGParameters":null}`; got != want {
			t.Errorf("dbstate is %s, want %s", got, want)
		}
		if got, want := b.file("keeperstate"), `{"UID":"keeper1","ClusterUID":"cluster1"}`; got != want {
			t.Errorf("keeperstate is %s, want %s", got, want)
		}
		i := b.info()
		if s := i.PostgresState; !s.Healthy || !s.Primary || s.UID != "db1" || s.Generation != 1 || s.XLogPos != 20 || s.ListenAddress != "host1" {
			t.Errorf("reported %+v", s)
		}
		if i.BootUUID != "boot1" || i.PostgresBinaryVersion.Maj != 15 || !slices.Contains(i.Features, cluster.FailClosedPromotion) {
			t.Errorf("reported %+v", i)
		}
	})
}

func TestAQuietClusterIsSilentAndOnlyWritesHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		requests := map[memory.Kind]int{}
		b := newBench(t)
		b.hook = func(_ context.Context, r memory.Request) error {
			mu.Lock()
			defer mu.Unlock()
			if r.Stage == memory.After {
				requests[r.Kind]++
			}
			return nil
		}
		b.create(master(), nil)
		b.start()
		defer b.stop()
		settle(4 * time.Second)
		b.edit(func(cd *cluster.ClusterData) { cd.DBs["db1"].Spec.InitMode = cluster.InitNone })
		settle(10 * time.Second)
		b.pg.took()
		logged := b.logs.FilterLevelExact(zap.InfoLevel).Len()
		mu.Lock()
		clear(requests)
		mu.Unlock()
		first := b.info().InfoUID
		settle(50 * time.Second)
		mu.Lock()
		defer mu.Unlock()
		if n := b.logs.FilterLevelExact(zap.InfoLevel).Len() - logged; n != 0 {
			t.Errorf("%d lines logged: %v", n, b.logs.All()[logged:])
		}
		if requests[memory.Commit] != 10 || requests[memory.Renew] != 5 || requests[memory.Get] != 0 || requests[memory.List] != 0 || requests[memory.Grant] != 0 {
			t.Errorf("in 50 s: %v, want 10 commits, half as many renewals and no reads", requests)
		}
		if b.info().InfoUID == first {
			t.Error("the heartbeat has the old infoUID")
		}
		b.wantCalls("quiet")
	})
}

func TestAShorterSleepIntervalCountsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long, short := cluster.Duration{Duration: time.Minute}, cluster.Duration{Duration: time.Second}
		b := running(t, func(cd *cluster.ClusterData) { cd.Cluster.Spec.SleepInterval = &long })
		defer b.stop()
		settle(5 * time.Second)
		b.edit(func(cd *cluster.ClusterData) { cd.Cluster.Spec.SleepInterval = &short })
		settle(100 * time.Millisecond)
		for range 3 {
			before := b.info().InfoUID
			settle(time.Second)
			if b.info().InfoUID == before {
				t.Error("no sign of life for a second")
			}
		}
	})
}

func TestADeadInstanceIsStartedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, nil)
		defer b.stop()
		settle(time.Second)
		b.pg.took()
		b.pg.kill()
		settle(10 * time.Millisecond)
		b.wantCalls("after its death", "start", "reload")
		if s := b.info().PostgresState; !s.Healthy {
			t.Errorf("reported %+v", s)
		}
	})
}

func TestAStartThatFailsIsReportedAndTriedAgainLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, nil)
		defer b.stop()
		settle(time.Second)
		tries := 0
		b.pg.set(func() { b.pg.fails["start"] = errors.New("broken") })
		b.pg.kill()
		settle(20 * time.Second)
		tries = b.info().PostgresState.FailedStart
		if tries < 5 || tries > 12 || b.info().PostgresState.Healthy {
			t.Errorf("%d failed starts reported after 20 s, healthy %t", tries, b.info().PostgresState.Healthy)
		}
		if b.logs.FilterMessage("failed to start postgres").Len() == 0 {
			t.Error("nothing logged")
		}
		b.pg.set(func() { clear(b.pg.fails) })
		settle(6 * time.Second)
		if s := b.info().PostgresState; s.FailedStart != 0 || !s.Healthy {
			t.Errorf("reported %+v", s)
		}
	})
}

func TestARunningInstanceIsAdoptedNotRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, nil)
		b.crash()
		b.pg.took()
		b.start()
		defer b.stop()
		settle(5 * time.Second)
		b.wantCalls("before it is recorded")
		if s := b.info().PostgresState; !s.Healthy || b.info().BootUUID != "boot2" {
			t.Errorf("reported %+v", s)
		}
		b.edit(func(cd *cluster.ClusterData) { cd.Keepers["keeper1"].Status.BootUUID = "boot2" })
		settle(time.Second)
		b.wantCalls("once it is recorded", "reload")
	})
}

func TestNothingIsStartedBeforeTheProcessIsRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, nil)
		b.stop()
		b.pg.took()
		b.start()
		defer func() { b.stop() }()
		settle(10 * time.Second)
		b.wantCalls("not recorded")
		b.edit(func(cd *cluster.ClusterData) { cd.Keepers["keeper1"].Status.BootUUID = "boot2" })
		settle(100 * time.Millisecond)
		b.wantCalls("recorded", "start", "reload")
		b.edit(func(cd *cluster.ClusterData) { cd.Keepers["keeper1"].Status.BootUUID = "boot3" })
		settle(100 * time.Millisecond)
		b.wantCalls("another process", "stop fast")
	})
}

func TestTheInstanceIsLeftAloneWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		b := newBench(t)
		b.hook = func(context.Context, memory.Request) error {
			if away.Load() {
				return errors.New("away")
			}
			return nil
		}
		b.create(master(), nil)
		b.start()
		settle(3 * time.Second)
		b.pg.took()
		away.Store(true)
		b.edit(func(cd *cluster.ClusterData) { cd.Cluster.Status.Master = "db2" })
		settle(2 * time.Minute)
		b.wantCalls("store away")
		// What was seen by a watch before must not start a primary now (K2).
		b.pg.kill()
		settle(time.Minute)
		b.wantCalls("store away, instance dead")
		away.Store(false)
		settle(10 * time.Second)
		b.wantCalls("store back", "start")
		if b.pg.config.Recovery == nil || b.pg.config.Recovery.PrimaryConninfo != "" {
			t.Errorf("started with %+v, want a standby of nobody", b.pg.config.Recovery)
		}
		b.stop()
	})
}

// elected makes db1 a standby of db2 first, and then the master.
func elected(t *testing.T, synchronous bool) *bench {
	b := newBench(t)
	spec := &cluster.DBSpec{InitMode: cluster.InitResync, Role: cluster.RoleStandby, Followers: []string{},
		FollowConfig: &cluster.FollowConfig{Type: cluster.FollowInternal, DBUID: "db2"}}
	b.create(spec, func(cd *cluster.ClusterData) {
		cd.Cluster.Status.Master = "db2"
		cd.Cluster.Spec.SynchronousReplication = &synchronous
		cd.DBs["db2"] = &cluster.DB{UID: "db2", Generation: 1, Spec: &cluster.DBSpec{KeeperUID: "keeper2", Role: cluster.RoleMaster},
			Status: cluster.DBStatus{ListenAddress: "host2", Port: "5432", SystemID: "7", TimelineID: 2, XLogPos: 100}}
	})
	b.start()
	settle(3 * time.Second)
	b.wantCalls("resync", "basebackup host2", "start")
	b.edit(func(cd *cluster.ClusterData) { cd.DBs["db1"].Spec.InitMode = cluster.InitNone })
	settle(time.Second)
	return b
}

// elect makes db1 the master, with db3 as its synchronous standby.
func (b *bench) elect() {
	b.t.Helper()
	b.edit(func(cd *cluster.ClusterData) {
		cd.Cluster.Status.Master = "db1"
		db := cd.DBs["db1"]
		db.Generation = 2
		db.Spec.Role, db.Spec.FollowConfig, db.Spec.Followers = cluster.RoleMaster, nil, []string{"db3"}
		db.Spec.SynchronousReplication, db.Spec.SynchronousStandbys = true, []string{"db3"}
	})
}

func TestASynchronousPromotionIsFailClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := elected(t, true)
		defer b.stop()
		if got := b.pg.config.Parameters[syncNames]; got != "stolonfakestandby" {
			t.Errorf("a standby runs with synchronous_standby_names %q", got)
		}
		b.elect()
		settle(50 * time.Millisecond)
		b.wantCalls("elected", "slot stolon_db3", "promote", "reload", "wake standbys")
		s := b.info().PostgresState
		if !s.Primary || s.Generation != 2 || s.SyncGeneration != 2 || len(s.SynchronousStandbys) != 0 {
			t.Errorf("reported %+v", s)
		}
		if kv, err := b.client.Get(context.Background(), b.client.ExtKey("timelines/cluster1/3")); err != nil || kv == nil || string(kv.Value) != `["db1"]` {
			t.Errorf("creators of timeline 3: %v, %v", kv, err)
		}
		// In sync only when it has what was written before it was waited for.
		b.pg.stream(99, "db3")
		settle(time.Second)
		if s := b.info().PostgresState; len(s.SynchronousStandbys) != 0 {
			t.Errorf("reported in sync before it has flushed: %+v", s)
		}
		b.pg.stream(100, "db3")
		settle(200 * time.Millisecond)
		if s := b.info().PostgresState; !slices.Equal(s.SynchronousStandbys, []string{"db3"}) {
			t.Errorf("reported %+v", s)
		}
	})
}

// What a promotion was decided on is old once its slots have taken long.
func TestAPromotionHeldUpByItsSlotsIsDecidedAnew(t *testing.T) {
	for name, replaced := range map[string]bool{"still elected": false, "another was elected": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := elected(t, true)
				defer b.stop()
				b.pg.set(func() { b.pg.block = true })
				b.elect()
				settle(300 * time.Millisecond)
				if !replaced {
					settle(2 * time.Second)
					b.wantCalls("elected", "promote", "reload", "wake standbys")
					return
				}
				b.edit(func(cd *cluster.ClusterData) { cd.Cluster.Status.Master = "db2" })
				settle(3 * time.Second)
				if got := b.pg.took(); slices.Contains(got, "promote") {
					t.Errorf("the instance was told %q", got)
				}
				if kv, err := b.client.Get(context.Background(), b.client.ExtKey("timelines/cluster1/3")); err != nil || kv != nil {
					t.Errorf("creators of timeline 3: %v, %v", kv, err)
				}
				if p := b.file(promotionFile); p != "" {
					t.Errorf("noted %s", p)
				}
			})
		})
	}
}

func TestAFollowedDBIsChangedByReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := elected(t, false)
		defer b.stop()
		follow := func(cd *cluster.ClusterData) {
			cd.Cluster.Status.Master = "db3"
			cd.DBs["db3"] = &cluster.DB{UID: "db3", Generation: 1, Spec: &cluster.DBSpec{KeeperUID: "keeper3", Role: cluster.RoleMaster},
				Status: cluster.DBStatus{ListenAddress: "host3", Port: "5432", SystemID: "7", TimelineID: 3, XLogPos: 100}}
			cd.DBs["db1"].Spec.FollowConfig = &cluster.FollowConfig{Type: cluster.FollowInternal, DBUID: "db3"}
			cd.DBs["db1"].Generation = 2
		}
		b.edit(follow)
		settle(50 * time.Millisecond)
		b.wantCalls("another master", "reload")
		if got := b.pg.config.Recovery.PrimaryConninfo; !strings.Contains(got, "host=host3") {
			t.Errorf("follows %q", got)
		}
		if s := b.info().PostgresState; s.Generation != 2 || s.Forked {
			t.Errorf("reported %+v", s)
		}
	})
}

// Who reads on a standby is let read, until it is to take over.
func TestReplayThatIsHeldUpIsHelpedInASwitchoverOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := elected(t, false)
		defer b.stop()
		b.pg.took()
		b.pg.set(func() { b.pg.sample.Replayed = b.pg.sample.Position - 10 })
		settle(30 * time.Second)
		b.wantCalls("no switchover")
		st := cluster.Switchover{ID: "s", ClusterUID: "cluster1", Master: "db2", Target: "db1", Phase: cluster.Shipping}
		if _, err := b.client.Commit(context.Background(), nil, []store.Op{{Key: b.client.ExtKey(cluster.ExtSwitchover), Value: store.Encode(st)}}); err != nil {
			t.Fatal(err)
		}
		settle(100 * time.Millisecond)
		b.wantCalls("it takes over", "end conflicts")
	})
}

func TestAnAmbiguousTimelineIsNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := elected(t, false)
		defer b.stop()
		key := b.client.ExtKey("timelines/cluster1/2")
		if _, err := b.client.Commit(context.Background(), nil, []store.Op{{Key: key, Value: []byte(`["db2","db3"]`)}}); err != nil {
			t.Fatal(err)
		}
		b.edit(func(cd *cluster.ClusterData) {
			cd.Cluster.Status.Master = "db3"
			cd.DBs["db3"] = &cluster.DB{UID: "db3", Generation: 1, Spec: &cluster.DBSpec{KeeperUID: "keeper3", Role: cluster.RoleMaster},
				Status: cluster.DBStatus{ListenAddress: "host3", Port: "5432", SystemID: "7", TimelineID: 2, XLogPos: 100}}
			cd.DBs["db1"].Spec.FollowConfig = &cluster.FollowConfig{Type: cluster.FollowInternal, DBUID: "db3"}
		})
		settle(time.Second)
		b.wantCalls("ambiguous")
		if s := b.info().PostgresState; !s.Forked {
			t.Errorf("reported %+v, want forked", s)
		}
	})
}

func TestACopyThatIsNoLongerWantedIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.pg.block = true
		spec := &cluster.DBSpec{InitMode: cluster.InitResync, Role: cluster.RoleStandby, FollowConfig: &cluster.FollowConfig{Type: cluster.FollowInternal, DBUID: "db2"}}
		b.create(spec, func(cd *cluster.ClusterData) {
			cd.Cluster.Status.Master = "db2"
			cd.DBs["db2"] = &cluster.DB{UID: "db2", Spec: &cluster.DBSpec{KeeperUID: "keeper2", Role: cluster.RoleMaster},
				Status: cluster.DBStatus{ListenAddress: "host2", Port: "5432", SystemID: "7", TimelineID: 2, XLogPos: 100}}
		})
		b.start()
		defer b.stop()
		settle(30 * time.Second)
		first := b.info().InfoUID
		settle(6 * time.Second)
		if b.info().InfoUID == first {
			t.Error("no heartbeat while a copy is made")
		}
		b.pg.set(func() { b.pg.block = false })
		b.edit(func(cd *cluster.ClusterData) { cd.DBs["db2"].Status.ListenAddress = "host9" })
		settle(time.Second)
		b.wantCalls("another address", "basebackup host9", "start")
	})
}

func TestACompleteCopyIsNotMadeAgainAfterACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := elected(t, false)
		b.stop()
		b.pg.took()
		// As if the keeper had been killed just before it recorded the copy.
		if err := b.files.Save("dbstate", []byte(`{"UID":"db1","Generation":0,"Initializing":true,"InitPGParameters":null}`)); err != nil {
			t.Fatal(err)
		}
		b.edit(func(cd *cluster.ClusterData) {
			cd.Keepers["keeper1"].Status.BootUUID = "boot2"
			cd.DBs["db1"].Spec.InitMode = cluster.InitResync
		})
		b.start()
		defer b.stop()
		settle(time.Second)
		b.wantCalls("after the crash", "start")
	})
}

// returned is an old master that comes back after db2 was elected, with a new
// db to be copied.
func returned(t *testing.T, parked bool, edit func(*bench, *cluster.ClusterData), creators string) *bench {
	b := running(t, nil)
	b.crash()
	b.pg.kill()
	b.pg.took()
	b.edit(func(cd *cluster.ClusterData) {
		cd.Cluster.Status.Master = "db2"
		cd.Keepers["keeper1"].Status.BootUUID = "boot2"
		cd.DBs["db2"] = &cluster.DB{UID: "db2", Generation: 1, Spec: &cluster.DBSpec{KeeperUID: "keeper2", Role: cluster.RoleMaster},
			Status: cluster.DBStatus{ListenAddress: "host2", Port: "5432", SystemID: "7", TimelineID: 2, XLogPos: 100}}
	})
	if _, err := b.client.Commit(context.Background(), nil, []store.Op{{Key: b.client.ExtKey("timelines/cluster1/2"), Value: []byte(creators)}}); err != nil {
		t.Fatal(err)
	}
	if parked {
		b.start()
		settle(time.Second)
		b.wantCalls("replaced", "start")
		if s := b.info().PostgresState; !s.Healthy || s.Primary || s.XLogPos != 20 {
			t.Errorf("parked, it reported %+v", s)
		}
	}
	b.edit(func(cd *cluster.ClusterData) {
		defer edit(b, cd)
		delete(cd.DBs, "db1")
		cd.DBs["db4"] = &cluster.DB{UID: "db4", Generation: 1, Spec: &cluster.DBSpec{KeeperUID: "keeper1", InitMode: cluster.InitResync, Role: cluster.RoleStandby,
			FollowConfig: &cluster.FollowConfig{Type: cluster.FollowInternal, DBUID: "db2"}}}
	})
	if !parked {
		b.start()
	}
	return b
}

func TestHowAnOldMasterRejoins(t *testing.T) {
	const running, end, follow, backup, drop = "stop fast", "start,stop fast", "start", "basebackup host2", "dropaside"
	for _, tt := range []struct {
		name     string
		parked   bool
		fork     uint64
		creators string
		unfit    bool
		fails    string
		rewind   bool
		want     string
	}{
		{"its end was seen and is before the fork: it follows", true, 20, `["db2"]`, false, "", false, running + "," + follow},
		{"its end is found out and is before the fork: it follows", false, 20, `["db2"]`, false, "", false, end + "," + follow},
		{"the fork is where it ends, but two may have made the timeline: a copy", true, 20, `["db2","db1"]`, false, "", false, running + "," + backup + ",start," + drop},
		{"it doesn't stream: a copy, and what it held is in the cluster", true, 20, `["db2"]`, true, "", false, running + ",start," + running + "," + backup + ",start," + drop},
		{"its end is past the fork: a copy, and what it held is kept", true, 19, `["db2"]`, false, "", false, running + "," + backup + ",start"},
		{"its end is past the fork: a rewind", true, 19, `["db2"]`, false, "", true, running + ",prepare,rewind,start"},
		{"after a crash it is recovered before a rewind", false, 19, `["db2"]`, false, "", true, end + ",prepare,rewind,start"},
		{"a failed rewind ends in a copy", true, 19, `["db2"]`, false, "rewind", true, running + ",prepare," + backup + ",start"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := returned(t, tt.parked, func(b *bench, cd *cluster.ClusterData) {
					b.pg.set(func() {
						b.pg.history, b.pg.unfit = []cluster.TimelineHistory{{TimelineID: 1, SwitchPoint: tt.fork}}, tt.unfit
						if tt.fails != "" {
							b.pg.fails[tt.fails] = errors.New("broken")
						}
					})
					cd.DBs["db2"].Status.TimelinesHistory = []cluster.TimelineHistory{{TimelineID: 1, SwitchPoint: tt.fork}}
					if db := cd.DBs["db4"]; db != nil {
						db.Spec.UsePgrewind = tt.rewind
					}
				}, tt.creators)
				defer b.stop()
				settle(2 * time.Minute)
				calls := b.pg.took()
				if got := strings.Join(calls, ","); got != tt.want {
					t.Errorf("calls %s, want %s", got, tt.want)
				}
				copied, dropped := slices.Contains(calls, backup), slices.Contains(calls, drop)
				if kept := b.logs.FilterMessageSnippet("keeping the old data directory").Len() == 1; kept != (copied && !dropped) {
					t.Errorf("told that the old data is kept: %t", kept)
				}
				var st decide.DBState
				if err := json.Unmarshal(b.files.m[dbStateFile], &st); err != nil || st.UID != "db4" || st.Initializing {
					t.Errorf("dbstate %+v, %v", st, err)
				}
			})
		})
	}
}

// A copy without room is refused where everybody sees it, and made once there
// is some.
func TestACopyWithoutRoomIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := returned(t, true, func(b *bench, cd *cluster.ClusterData) {
			cd.DBs["db2"].Status.TimelinesHistory = []cluster.TimelineHistory{{TimelineID: 1, SwitchPoint: 19}}
			b.pg.set(func() { b.pg.free = 9 })
		}, `["db2"]`)
		defer b.stop()
		settle(20 * time.Second)
		b.wantCalls("no room", "stop fast")
		if got := b.info().Refuses; !strings.Contains(got, "--resync-without-aside") {
			t.Errorf("published that it refuses: %q", got)
		}
		b.pg.set(func() { b.pg.free = 10 })
		settle(20 * time.Second)
		b.wantCalls("room", "basebackup host2", "start")
		if got := b.info().Refuses; got != "" {
			t.Errorf("published that it refuses: %q", got)
		}
	})
}

// A source that is away when the old master returns doesn't cost a copy.
func TestARewindWaitsForItsSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := returned(t, false, func(b *bench, cd *cluster.ClusterData) {
			b.pg.set(func() { b.pg.fails["prepare"] = errors.New("connection refused") })
			cd.DBs["db2"].Status.TimelinesHistory = []cluster.TimelineHistory{{TimelineID: 1, SwitchPoint: 19}}
			if db := cd.DBs["db4"]; db != nil {
				db.Spec.UsePgrewind = true
			}
		}, `["db2"]`)
		settle(10 * time.Second)
		b.wantCalls("source away", "start", "stop fast")
		b.crash()
		b.pg.set(func() { delete(b.pg.fails, "prepare") })
		b.edit(func(cd *cluster.ClusterData) { cd.Keepers["keeper1"].Status.BootUUID = "boot3" })
		b.start()
		defer b.stop()
		settle(10 * time.Second)
		b.wantCalls("source back, keeper restarted", "start", "stop fast", "prepare", "rewind", "start")
	})
}

func TestASilentInstanceIsNotReportedAsFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, nil)
		defer b.stop()
		settle(time.Second)
		b.pg.set(func() { b.pg.silent = true })
		settle(6 * time.Second)
		if s := b.info().PostgresState; s.Healthy || s.XLogPos != 0 || s.UID != "db1" || s.SynchronousStandbys != nil {
			t.Errorf("reported %+v", s)
		}
		b.pg.set(func() { b.pg.silent = false })
		settle(time.Second)
		if s := b.info().PostgresState; !s.Healthy {
			t.Errorf("reported %+v", s)
		}
	})
}

// A start beside a postmaster that its parent has not reaped would fail. It is
// no failed start, for a while.
func TestAStartWaitsForTheEndOfThePostmasterToBeNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, nil)
		defer b.stop()
		settle(time.Second)
		b.pg.took()
		linger := func(pid int) {
			b.pg.set(func() { b.pg.look.Lingering = pid })
			b.pg.kill()
		}
		linger(17)
		settle(reapLimit - time.Second)
		b.wantCalls("not reaped")
		if s := b.info().PostgresState; s.Healthy || s.FailedStart != 0 {
			t.Errorf("reported %+v", s)
		}
		b.pg.set(func() { b.pg.look.Lingering = 0 })
		settle(time.Second)
		b.wantCalls("reaped", "start", "reload")

		linger(18)
		settle(reapLimit - time.Second)
		b.wantCalls("another is not reaped")
		settle(2 * time.Second)
		b.wantCalls("its parent never looks", "start", "reload")
	})
}

func TestAKeeperKilledBeforeUsersCameInLetsNobodyIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		on := true
		b := running(t, nil)
		defer func() { b.stop() }()
		b.edit(func(cd *cluster.ClusterData) {
			cd.Cluster.Spec.SynchronousReplication = &on
			db := cd.DBs["db1"]
			db.Generation, db.Spec.SynchronousReplication, db.Spec.SynchronousStandbys = 2, true, []string{"db2"}
		})
		settle(time.Second)
		b.wantCalls("synchronous", "reload", "checkpoint", "wake standbys")
		b.pg.kill()
		settle(time.Second)
		b.wantCalls("started again", "start")
		b.crash()
		b.start()
		b.edit(func(cd *cluster.ClusterData) { cd.Keepers["keeper1"].Status.BootUUID = "boot2" })
		settle(5 * time.Second)
		for _, l := range b.pg.config.HBA {
			if strings.HasPrefix(l, "host all all ") {
				t.Errorf("users are let in by %q", l)
			}
		}
		b.pg.stream(20, "db2")
		settle(time.Second)
		if !slices.ContainsFunc(b.pg.config.HBA, func(l string) bool { return strings.HasPrefix(l, "host all all ") }) {
			t.Errorf("nobody is let in: %q", b.pg.config.HBA)
		}
	})
}

func TestAShortDiskIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, nil)
		defer b.stop()
		b.edit(func(cd *cluster.ClusterData) { cd.DBs["db1"].Status.XLogPos = 21 })
		b.pg.kill()
		settle(time.Minute)
		b.wantCalls("short", "start", "stop fast")
		if b.logs.FilterMessageSnippet("disk was swapped or restored").Len() != 1 {
			t.Error("not told once")
		}
	})
}

func TestARestartIsAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var downtime, unannounced atomic.Bool
		b := newBench(t)
		b.hook = func(_ context.Context, r memory.Request) error {
			if r.Kind == memory.Commit && r.Stage == memory.After && strings.Contains(r.Key, "keepers/info") {
				var i cluster.KeeperInfo
				err := json.Unmarshal(r.Ops[0].Value, &i)
				if err == nil && i.Downtime != "" {
					downtime.Store(true)
				}
				b.pg.set(func() {
					if err == nil && i.Downtime == "" && downtime.Load() && !b.pg.look.Running {
						unannounced.Store(true)
					}
				})
			}
			return nil
		}
		on := true
		b.create(master(), func(cd *cluster.ClusterData) { cd.Cluster.Spec.AutomaticPgRestart = &on })
		b.start()
		defer b.stop()
		settle(3 * time.Second)
		b.pg.took()
		b.edit(func(cd *cluster.ClusterData) { cd.DBs["db1"].Spec.InitMode = cluster.InitNone })
		b.pg.set(func() { b.pg.sample.PendingRestart = true })
		b.pg.set(func() { b.pg.sticky = true })
		settle(20 * time.Second)
		if !downtime.Load() {
			t.Error("no downtime published")
		}
		if unannounced.Load() {
			t.Error("a report while postgres is down doesn't say that this is meant")
		}
		if i := b.info(); i.Downtime != "" {
			t.Errorf("once it runs again the report speaks of a downtime, %q", i.Downtime)
		}
		b.wantCalls("pending restart", "stop fast", "start", "reload")
	})
}

func TestTheLastPublicationSaysThatTheKeeperStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := running(t, nil)
		b.stop()
		if !b.info().Stopping || b.pg.look.Running {
			t.Errorf("published %+v, running %t", b.info(), b.pg.look.Running)
		}
	})
}

func TestNewRefusesAnotherUID(t *testing.T) {
	files := newFiles()
	o := Options{Store: store.NewClient(memory.New().Client("k", nil), "p", "c"), Instance: newFake(), Files: files, Clock: func() time.Duration { return 0 },
		NewUID: func() string { return "0a0b0c0d" }, BootUUID: "b", Log: zap.NewNop(), StoreTimeout: time.Second}
	if _, err := New(o); err != nil {
		t.Fatal(err)
	}
	if b, _ := files.Load("keeperstate"); string(b) != `{"UID":"0a0b0c0d","ClusterUID":""}` {
		t.Errorf("keeperstate is %s", b)
	}
	for uid, want := range map[string]string{"": "", "0a0b0c0d": "", "other": `saved uid "0a0b0c0d" differs from configuration uid: "other"`, "No": `keeper uid "No" not valid`} {
		o.UID = uid
		_, err := New(o)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("New with uid %q: %v, want %q", uid, err, want)
		}
	}
	if err := files.Save("dbstate", []byte("{")); err != nil {
		t.Fatal(err)
	}
	o.UID = ""
	if _, err := New(o); err == nil || !strings.Contains(err.Error(), "dbstate") {
		t.Errorf("New with a corrupt dbstate: %v", err)
	}
}

var _ Instance = (*postgresql.Instance)(nil)
