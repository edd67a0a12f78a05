package sim

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"stolon/internal/cluster"
	"stolon/internal/keeper"
	"stolon/internal/postgresql/postgresqltest"
	"stolon/internal/proxy"
	"stolon/internal/sentinel"
	"stolon/internal/store"
	"stolon/internal/store/memory"
)

const (
	storeTimeout = 5 * time.Second
	pgPort       = "5432"
	proxyPort    = "25432"
)

// A sim is one run: a cluster of real loops, its faults and its history.
type sim struct {
	seed    uint64
	plan    plan
	plant   plant
	dice    dice
	start   time.Time
	server  *memory.Server
	keys    *store.Client // for the names of keys only
	network *network
	world   *postgresqltest.World
	truth   *truth
	log     *zap.Logger
	wg      sync.WaitGroup // processes, clients, observers
	over    context.Context
	finish  context.CancelFunc

	mu    sync.Mutex
	lives map[string]int
	procs map[string]*proc // by name, the present life
	disks map[string]map[string][]byte
	air   weather
	lines []string
	hash  uint64
	print func(string)

	instances []*postgresqltest.Instance
	outside   *postgresqltest.Instance // what a standby cluster follows; nil: nothing
	promoted  chan struct{}            // closed when there is no standby cluster any more
	ambushes  []chan occasion          // who waits for the next occasion
	// For doubts: whether somebody may be elected, and who waits for a keeper to
	// announce that it takes its instance down, or for a switchover to do so.
	elects    bool
	downtimes chan string
	stopping  chan occasion
	pinged    chan struct{}
}

// weather is how the store behaves.
type weather struct {
	slow       time.Duration // half of the messages take up to that much longer
	lag        time.Duration // watch events come up to that late
	breakWatch uint64        // per cent of watch events that break the watch
	lose       uint64        // per cent of messages that get lost
	steady     time.Duration // every message takes so much longer
	fail       uint64        // per cent of requests that fail at once
}

func (s *sim) weather() weather {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.air
}

func (s *sim) setWeather(f func(*weather)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.air)
}

// A plan is what kind of run a seed is.
type plan struct {
	profile   string
	sync      bool
	keepers   int
	sentinels int
	proxies   int
	clients   int
	outside   bool          // it is a standby cluster at first
	noMaster  string        // the keeper that can't be master, "" for none
	noSync    string        // and the one that can't be synchronous
	old       string        // the keeper that announces and reports what 0.17 does, "" for none
	only      string        // the doubt that is played, "" for all
	faults    time.Duration // how long there are faults
	heal      time.Duration // how long the cluster has to come round after them
	settings  cluster.Spec
}

func planFor(seed uint64) plan {
	d := dice(seed).of("plan")
	p := plan{
		profile:   []string{"mixed", "mixed", "crashes", "partitions", "ambushes", "calm"}[d.intN(6)],
		sync:      d.chance(60),
		keepers:   []int{2, 3, 3, 3, 3, 4}[d.intN(6)],
		sentinels: 2,
		proxies:   2,
		clients:   3,
		faults:    time.Duration(20+d.intN(20)) * time.Second,
		heal:      60 * time.Second,
	}
	second := func(n float64) *cluster.Duration {
		return &cluster.Duration{Duration: time.Duration(n * float64(time.Second))}
	}
	initNew, rewind, strict := cluster.InitNew, d.chance(50), d.chance(25)
	p.settings = cluster.Spec{
		InitMode: &initNew, SynchronousReplication: &p.sync, UsePgrewind: &rewind, AutomaticPgRestart: &rewind,
		SleepInterval: second(1), FailInterval: second(4), ProxyCheckInterval: second(1), ProxyTimeout: second(3),
		RequestTimeout: second(3), ConvergenceTimeout: second(15), DBWaitReadyTimeout: second(10),
	}
	if strict {
		mode := cluster.AccessStrict
		p.settings.DefaultSUReplAccessMode = &mode
	}
	if d.chance(7) {
		p.settings.SleepInterval, p.settings.FailInterval, p.settings.ProxyCheckInterval, p.settings.ProxyTimeout = nil, nil, nil, nil
		p.settings.ConvergenceTimeout, p.settings.RequestTimeout = nil, nil
		p.faults *= 2
		p.heal = 200 * time.Second
	}
	least, most := uint16(1), uint16(1)
	if d.chance(30) {
		least = 0
	}
	if d.chance(40) {
		most = 2
	}
	p.settings.MinSynchronousStandbys, p.settings.MaxSynchronousStandbys = &least, &most
	if able := dice(seed).of("abilities"); p.keepers > 2 && able.chance(20) {
		some := []*string{&p.noMaster, &p.noSync}
		*some[able.intN(2)] = fmt.Sprintf("keeper%d", 1+able.intN(p.keepers))
	}
	if quiet := dice(seed).of("quiet"); p.profile == "calm" {
		if quiet.chance(60) {
			p.profile = "doubts"
		}
		if quiet.chance(25) {
			p.old = fmt.Sprintf("keeper%d", 1+quiet.intN(p.keepers))
		}
	}
	if follows := dice(seed).of("standby cluster"); follows.chance(7) && p.profile != "doubts" {
		p.followOutside()
	}
	return p
}

// result is what is told of a run.
type result struct {
	Seed      uint64
	Hash      uint64
	Failure   string
	Trace     []string `json:",omitempty"`
	Profile   string
	Sync      bool
	Acks      int
	Reads     int
	Elections int
	Handovers int
	Virtual   time.Duration
}

// play runs one seed in a bubble of virtual time.
func play(t *testing.T, seed uint64, pl plant, print func(string)) result {
	var r result
	synctest.Test(t, func(t *testing.T) {
		s := &sim{
			seed: seed, plan: planFor(seed), plant: pl, dice: dice(seed).of("run"), start: time.Now(), server: memory.New(),
			lives: map[string]int{}, procs: map[string]*proc{}, disks: map[string]map[string][]byte{}, print: print, hash: 14695981039346656037,
			promoted: make(chan struct{}),
		}
		if pl.plan != nil {
			pl.plan(&s.plan)
		}
		if *onlyDoubt != "" {
			inDoubt(*onlyDoubt)(&s.plan)
		}
		s.over, s.finish = context.WithCancel(context.Background())
		s.keys = store.NewClient(nil, "sim", "c")
		s.network = newNetwork(s)
		s.truth = newTruth(s)
		s.log = zap.NewNop()
		if print != nil {
			s.log = zap.New(zapcore.NewCore(
				zapcore.NewConsoleEncoder(zapcore.EncoderConfig{MessageKey: "m", LevelKey: "l", NameKey: "n", EncodeLevel: zapcore.LowercaseLevelEncoder, ConsoleSeparator: " "}),
				logLines{s}, zapcore.DebugLevel))
		}
		s.world = postgresqltest.NewWorld(postgresqltest.Options{
			Seed: uint64(s.dice.of("world")), Reachable: s.network.reachable, Changed: s.network.change, Watcher: s.truth,
		})
		failure := s.run()
		s.tearDown()
		r = result{
			Seed: seed, Hash: s.hash, Failure: failure, Profile: s.plan.profile, Sync: s.plan.sync,
			Acks: s.truth.acks, Reads: s.truth.reads, Elections: s.truth.elections, Handovers: s.truth.handovers, Virtual: time.Since(s.start),
		}
		if failure != "" {
			r.Trace = s.lines
		}
	})
	return r
}

// trace notes an event. The hash of all is what "the same run" means.
func (s *sim) trace(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	at := time.Since(s.start)
	h := fnv.New64a()
	s.mu.Lock()
	fmt.Fprintf(h, "%d %d %s", s.hash, at, line)
	s.hash = h.Sum64()
	line = fmt.Sprintf("%12.6f %s", at.Seconds(), line)
	s.lines = append(s.lines, line)
	s.mu.Unlock()
	if s.print != nil {
		s.print(line)
	}
}

// detail prints what is too much for the trace.
func (s *sim) detail(format string, args ...any) {
	if s.print != nil && details {
		s.print(fmt.Sprintf("%12.6f         ", time.Since(s.start).Seconds()) + fmt.Sprintf(format, args...))
	}
}

// logLines prints what the processes log, which is no part of the trace.
type logLines struct{ s *sim }

func (l logLines) Write(b []byte) (int, error) {
	l.s.print(fmt.Sprintf("%12.6f     %s", time.Since(l.s.start).Seconds(), strings.TrimRight(string(b), "\n")))
	return len(b), nil
}

func (l logLines) Sync() error { return nil }

// epochOf is what a host's clock showed at the start: two clocks have nothing
// in common.
func (s *sim) epochOf(name string) time.Duration {
	return between(s.dice.of("clock "+name).at(0), time.Hour, 1000*time.Hour)
}

func host(n int) string { return fmt.Sprintf("10.0.0.%d", n) }

func (s *sim) instance(keeper string) *postgresqltest.Instance {
	var n int
	if _, err := fmt.Sscanf(keeper, "keeper%d", &n); err != nil || n < 1 || n > len(s.instances) {
		return nil
	}
	return s.instances[n-1]
}

// run plays the seed and returns what went wrong, "" for nothing.
func (s *sim) run() string {
	s.trace("seed %d: %s, sync %t, %d keepers", s.seed, s.plan.profile, s.plan.sync, s.plan.keepers)
	s.wg.Go(s.observe)
	for n := range s.plan.keepers {
		s.instances = append(s.instances, s.world.Instance(host(n+1), pgPort))
	}
	var names []string
	for n := range s.plan.sentinels {
		names = append(names, fmt.Sprintf("sentinel%d", n+1))
	}
	for n := range s.plan.keepers {
		names = append(names, fmt.Sprintf("keeper%d", n+1))
	}
	for n := range s.plan.proxies {
		names = append(names, fmt.Sprintf("proxy%d", n+1))
	}
	if !s.plan.outside {
		close(s.promoted)
	} else if err := s.startOutside(); err != nil {
		return "the primary outside does not start: " + err.Error()
	}
	early := s.dice.of("early")
	for _, name := range names {
		s.sleep(early.between(time.Millisecond, 100*time.Millisecond))
		s.boot(name)
	}
	for n := range s.plan.clients {
		s.wg.Go(func() {
			select {
			case <-s.promoted:
				s.client(n + 1)
			case <-s.over.Done():
			}
		})
	}
	if !s.await(90*time.Second, func() bool { return (s.plan.outside || s.truth.ackedSince(s.start)) && s.complete() == "" }) {
		return s.failure("I10: the cluster did not come up: " + s.complete())
	}
	s.trace("the cluster is up")
	if s.plan.outside {
		s.wg.Go(s.promoteCluster)
	}
	s.nemesis()
	<-s.promoted
	if s.truth.failed() {
		return s.failure("")
	}
	s.trace("faults are over")
	healed := time.Now()
	why := ""
	if !s.await(s.plan.heal, func() bool {
		if why = s.complete(); why == "" && !s.truth.ackedSince(healed) {
			why = "no write was acknowledged"
		}
		return why == ""
	}) {
		return s.failure(fmt.Sprintf("I10: not whole %s after the last fault: %s", s.plan.heal, why))
	}
	s.trace("whole again")
	s.sleep(3 * time.Second)
	s.truth.final()
	return s.failure("")
}

func (s *sim) failure(otherwise string) string {
	if f := s.truth.why(); f != "" {
		return f
	}
	return otherwise
}

func (s *sim) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.over.Done():
	}
}

// await looks every now and then until ok, or an invariant was broken.
func (s *sim) await(limit time.Duration, ok func() bool) bool {
	d := s.dice.of("await")
	for until := time.Now().Add(limit); time.Now().Before(until); {
		if ok() || s.truth.failed() {
			return true
		}
		s.sleep(d.between(200*time.Millisecond, 300*time.Millisecond))
	}
	return false
}

// complete tells what the cluster still lacks.
func (s *sim) complete() string {
	cd := s.truth.clusterData()
	if cd == nil || cd.Cluster.Status.Phase != cluster.Normal {
		return "not initialised"
	}
	master := cd.Master()
	if master == nil || cd.Proxy.Spec.MasterDBUID != master.UID {
		return "no master is routed"
	}
	if cd.Cluster.Spec.Settings().Role == cluster.RoleStandby {
		return s.following()
	}
	if st := s.instance(master.Spec.KeeperUID).State(); !st.Ready || !st.Primary {
		return "the master does not run as a primary"
	}
	want := min(int(cd.Cluster.Spec.Settings().MaxStandbysPerSender), s.plan.keepers-1)
	streaming, primaries := 0, 0
	for _, i := range s.instances {
		st := i.State()
		if st.Streaming {
			streaming++
		}
		if st.Primary {
			primaries++
		}
	}
	if streaming < want {
		return fmt.Sprintf("%d of %d standbys stream", streaming, want)
	}
	if primaries > 1 {
		return fmt.Sprintf("%d primaries run", primaries)
	}
	if master.Spec.SynchronousReplication && want > 0 && len(cluster.Intersect(master.Spec.SynchronousStandbys, master.Status.SynchronousStandbys)) == 0 {
		return "no synchronous standby is known"
	}
	return ""
}

// boot starts the next life of a process, unless one still lives.
func (s *sim) boot(name string) {
	s.mu.Lock()
	before := s.procs[name]
	s.mu.Unlock()
	if before != nil {
		select {
		case <-before.done:
		default:
			return
		}
	}
	var kind string
	var n int
	for _, kind = range []string{"keeper", "sentinel", "proxy"} {
		if _, err := fmt.Sscanf(name, kind+"%d", &n); err == nil {
			break
		}
	}
	p := s.newProc(kind, n)
	s.mu.Lock()
	s.procs[name] = p
	s.mu.Unlock()
	var err error
	switch kind {
	case "keeper":
		err = s.bootKeeper(p)
	case "sentinel":
		err = s.bootSentinel(p)
	case "proxy":
		err = s.bootProxy(p)
	}
	if err != nil {
		s.truth.fail("%s does not start: %v", p.id, err)
		p.kill()
		close(p.done)
	}
}

func (s *sim) bootKeeper(p *proc) error {
	s.mu.Lock()
	if s.disks[p.name] == nil {
		s.disks[p.name] = map[string][]byte{}
	}
	disk := s.disks[p.name]
	s.mu.Unlock()
	var inst keeper.Instance = s.instances[p.n-1]
	if wrap := s.plant.instance; wrap != nil {
		inst = wrap(p, inst)
	}
	k, err := keeper.New(keeper.Options{
		UID: p.name, DataDir: "/data/" + p.name, ListenAddress: host(p.n), Port: pgPort, AdvertiseAddress: host(p.n), AdvertisePort: pgPort,
		Superuser:   keeper.Login{User: "su", Password: "x", Method: keeper.MD5},
		Replication: keeper.Login{User: "repl", Password: "x", Method: keeper.MD5},
		CanBeMaster: p.name != s.plan.noMaster, CanBeSynchronousReplica: p.name != s.plan.noSync,
		Store: p.store(), Instance: door{p, inst}, Files: files{p, disk}, Clock: p.clockOf(), NewUID: p.uid,
		BootUUID: p.id, Dial: p.dial, SwitchoverOnStop: p.n == 1, Log: s.log.Named(p.id), StoreTimeout: storeTimeout,
	})
	if err != nil {
		return err
	}
	p.run(k.Run)
	return nil
}

func (s *sim) bootSentinel(p *proc) error {
	uid := p.uid()
	x, err := sentinel.New(sentinel.Options{
		UID: uid, Lifeline: p.lifeline(uid), InitialSpec: &s.plan.settings, Store: p.store(), Clock: p.clockOf(), Wall: time.Now, NewUID: p.uid,
		Pick: func(n int) int { return int(p.draw("pick") % uint64(n)) }, Dial: p.dial, Log: s.log.Named(p.id), StoreTimeout: storeTimeout,
	})
	if err != nil {
		return err
	}
	s.truth.sentinel(p, fmt.Sprintf("%08x", uint32(p.dice.of("uid").at(1))))
	p.run(x.Run)
	return nil
}

func (s *sim) bootProxy(p *proc) error {
	uid := p.uid()
	x, err := proxy.New(proxy.Options{
		UID: uid, Lifeline: p.lifeline(uid), ListenAddress: p.name, Port: proxyPort, StopListening: p.n == 2, HoldTimeout: time.Duration(p.n-1) * 5 * time.Second,
		Listen:  p.listen,
		Dial:    p.dial,
		Resolve: func(ctx context.Context, host string) (string, error) { return host, nil },
		Store:   p.store(), Clock: p.clockOf(), NewUID: p.uid, Log: s.log.Named(p.id), StoreTimeout: storeTimeout,
	})
	if err != nil {
		return err
	}
	p.run(x.Run)
	return nil
}

// client writes and reads through the proxies for as long as the run lasts.
func (s *sim) client(n int) {
	node := fmt.Sprintf("client%d", n)
	d := s.dice.of(node)
	row := int64(n) * 1_000_000
	var c *conn
	drop := func() {
		if c != nil {
			c.Close()
			c = nil
		}
	}
	defer drop()
	for s.over.Err() == nil {
		s.sleep(d.between(30*time.Millisecond, s.restless()))
		if c == nil {
			px := fmt.Sprintf("proxy%d", 1+d.intN(s.plan.proxies))
			ctx, cancel := context.WithTimeout(s.over, 2*time.Second)
			var err error
			c, err = s.network.dial(ctx, nil, node, px, px+":"+proxyPort)
			cancel()
			if err != nil {
				c = nil
				continue
			}
			c.within = d.between(2*time.Second, 5*time.Second)
			if err := postgresqltest.Login(c); err != nil {
				drop()
				continue
			}
		}
		// A write may take long; somebody shall hear of the master all the time.
		reading := d.chance(25) || s.plan.profile == "doubts" && n > 1
		ask := "R\n"
		if !reading {
			row++
			ask = fmt.Sprintf("I %d\n", row)
		}
		var buf [64]byte
		if _, err := c.Write([]byte(ask)); err != nil {
			drop()
			continue
		}
		k, err := c.Read(buf[:])
		if err != nil {
			drop()
			continue
		}
		words := strings.Fields(string(buf[:k]))
		switch {
		case len(words) == 1 && words[0] == "A":
			s.truth.acked(node, row)
		case len(words) == 4 && words[0] == "V":
			s.truth.saw(node, words[1], words[2], words[3])
		default:
			drop()
		}
		if c != nil && d.chance(3) && s.plan.profile != "doubts" {
			drop()
		}
	}
}

// restless is the longest time a client says nothing.
func (s *sim) restless() time.Duration {
	if s.plan.profile == "doubts" {
		return 100 * time.Millisecond
	}
	return 250 * time.Millisecond
}

// observe follows the store in the very instant of each change.
func (s *sim) observe() {
	c := s.server.Client("observer", nil)
	for ch := range c.Watch(s.over, s.keys.Base()) {
		s.truth.changed(ch)
	}
	_ = c.Close()
}

// tearDown ends everything that still runs.
func (s *sim) tearDown() {
	s.finish()
	s.mu.Lock()
	var live []*proc
	for _, name := range cluster.SortedKeys(s.procs) {
		live = append(live, s.procs[name])
	}
	s.mu.Unlock()
	for _, p := range live {
		p.kill()
	}
	s.world.Close()
	s.wg.Wait()
}

// masterKeeper is the name of the keeper of the present master, or "".
func (s *sim) masterKeeper() string {
	cd := s.truth.clusterData()
	if cd == nil || cd.Master() == nil {
		return ""
	}
	return cd.Master().Spec.KeeperUID
}

// names of the processes of a kind, in order.
func (s *sim) names(kind string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, name := range cluster.SortedKeys(s.procs) {
		if strings.HasPrefix(name, kind) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (s *sim) proc(name string) *proc {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.procs[name]
}
