// Package sim runs the real loops of keepers, sentinels and proxies on virtual
// time, over a store and PostgreSQL instances made of variables, with faults
// that a seed decides, and holds the invariants of protocols.md section 8
// against what truly happened.
//
// Start with sim.run (sim_test.go); faults_test.go is what goes wrong,
// doubts_test.go what looks as if it did, truth_test.go what must hold,
// planted_test.go shows that bugs are caught.
// Replay a seed with: ./test sim -v -seed N
package sim

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	seeds   = flag.Int("seeds", 200, "number of seeds")
	first   = flag.Uint64("start", 1, "first seed")
	oneSeed = flag.Uint64("seed", 0, "play this seed only, and print everything")
	planted = flag.String("plant", "", "with -seed: the bug to plant")
	// onlyDoubt is told to workers by their environment.
	onlyDoubt = flag.String("doubt", os.Getenv("STOLON_SIM_DOUBT"), "play this doubt (doubts_test.go) only")
	twice     = flag.Int("twice", 40, "number of seeds that are played twice")
	exact     = flag.Bool("exact", false, "this program was built on a runtime without dice of its own (need_exact_go in tests/setup/lib.sh), so the same seed must be the same run")
	workers   = flag.Int("workers", runtime.NumCPU(), "processes that play seeds")
)

// stuckAfter is real time; a run takes a fraction of a second.
const stuckAfter = 90 * time.Second

// details, from the environment, makes a replay print every call through a door.
var details = os.Getenv("STOLON_SIM_DETAILS") != ""

// order is what a worker is told to play.
type order struct {
	Seed  uint64
	Plant string
	Print bool
}

// TestWorker is the process that plays seeds. The Go scheduler always does the
// same there: one thread runs Go code, nothing is preempted, nothing is printed
// and no garbage is collected while a seed is played. What is left to chance,
// the runtime's own dice, ./test sim takes away too.
func TestWorker(t *testing.T) {
	if os.Getenv("STOLON_SIM_WORKER") == "" {
		t.Skip("started by the other tests")
	}
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	if f := os.Getenv("STOLON_SIM_PROFILE"); f != "" {
		w, err := os.Create(f + strconv.Itoa(os.Getpid()))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if err := pprof.StartCPUProfile(w); err != nil {
			t.Fatal(err)
		}
		defer pprof.StopCPUProfile()
	}
	out := bufio.NewWriterSize(os.Stdout, 1<<26)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			t.Fatal(err)
		}
		var print func(string)
		if o.Print {
			print = func(line string) {
				fmt.Fprintf(out, "P %s\n", line)
			}
		}
		r := play(t, o.Seed, plants[o.Plant], print)
		b, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(out, "R %s\n", b)
		out.Flush()
		runtime.GC()
	}
}

// worker is one worker process.
type worker struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr *tail
}

// tail keeps what was written last.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.b) < 1<<16 {
		t.b = append(t.b, b...)
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

func startWorker() (*worker, error) {
	w := &worker{cmd: exec.Command(os.Args[0], "-test.run=^TestWorker$", "-test.timeout=0"), stderr: &tail{}}
	w.cmd.Env = append(os.Environ(), "STOLON_SIM_WORKER=1", "STOLON_SIM_DOUBT="+*onlyDoubt, "GODEBUG=asyncpreemptoff=1")
	w.cmd.Stderr = w.stderr
	in, err := w.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	w.in, w.out = in, bufio.NewReaderSize(out, 1<<20)
	return w, w.cmd.Start()
}

func (w *worker) stop() {
	w.in.Close()
	_, _ = io.Copy(io.Discard, w.out)
	_ = w.cmd.Wait()
}

// play has the worker play one seed; print gets its lines.
func (w *worker) play(o order, print func(string)) (result, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return result{}, err
	}
	if _, err := fmt.Fprintf(w.in, "%s\n", b); err != nil {
		return result{}, err
	}
	// A goroutine that waits for a mutex keeps virtual time from passing.
	stuck := time.AfterFunc(stuckAfter, func() { _ = w.cmd.Process.Signal(syscall.SIGQUIT) })
	defer stuck.Stop()
	killed := time.AfterFunc(stuckAfter+5*time.Second, func() { _ = w.cmd.Process.Kill() })
	defer killed.Stop()
	said := ""
	for {
		line, err := w.out.ReadString('\n')
		if err != nil {
			return result{}, fmt.Errorf("the worker ended (%w):\n%s%s", err, said, w.stderr)
		}
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "P "):
			print(line[2:])
		case strings.HasPrefix(line, "R "):
			var r result
			return r, json.Unmarshal([]byte(line[2:]), &r)
		default:
			said += line + "\n"
		}
	}
}

// playAll plays the orders on several workers and hands each result to done,
// one at a time and in any order, until that returns false.
func playAll(t *testing.T, n int, orders []order, done func(order, result, error) bool) {
	var mu sync.Mutex
	next, ended := 0, false
	take := func() (order, bool) {
		mu.Lock()
		defer mu.Unlock()
		if ended || next == len(orders) {
			return order{}, false
		}
		next++
		return orders[next-1], true
	}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			w, err := startWorker()
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { w.stop() }()
			for {
				o, ok := take()
				if !ok {
					return
				}
				r, err := w.play(o, func(string) {})
				mu.Lock()
				ended = !done(o, r, err) || ended
				mu.Unlock()
				if err != nil {
					w.stop()
					if w, err = startWorker(); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// TestSim plays many seeds.
func TestSim(t *testing.T) {
	if os.Getenv("STOLON_SIM_WORKER") != "" {
		t.Skip("not in a worker")
	}
	if *oneSeed != 0 {
		replay(t, *oneSeed)
		return
	}
	if *onlyDoubt != "" && !slices.ContainsFunc(doubts, func(d doubt) bool { return d.name == *onlyDoubt }) {
		t.Fatalf("no doubt is named %q", *onlyDoubt)
	}
	var orders []order
	for n := range *seeds {
		orders = append(orders, order{Seed: *first + uint64(n)})
	}
	began := time.Now()
	failures, acks, elections, handovers, virtual := 0, 0, 0, 0, time.Duration(0)
	playAll(t, *workers, orders, func(o order, r result, err error) bool {
		if err != nil {
			t.Errorf("seed %d: %v", o.Seed, err)
			failures++
			return failures < 10
		}
		acks, elections, handovers, virtual = acks+r.Acks, elections+r.Elections, handovers+r.Handovers, virtual+r.Virtual
		if r.Failure != "" {
			failures++
			t.Errorf("seed %d (%s, sync %t): %s\n  replay: ./test sim -v -seed %d\n%s", o.Seed, r.Profile, r.Sync, r.Failure, o.Seed, lastOf(r.Trace, 15))
		}
		return failures < 10
	})
	t.Logf("%d seeds, %d failed: %s of virtual time, %d acknowledged writes, %d elections, %d of them switchovers, in %s",
		*seeds, failures, virtual.Round(time.Second), acks, elections, handovers, time.Since(began).Round(time.Second))
}

func lastOf(lines []string, n int) string {
	var b strings.Builder
	for _, l := range lines[max(0, len(lines)-n):] {
		b.WriteString("    " + l + "\n")
	}
	return b.String()
}

func replay(t *testing.T, seed uint64) {
	w, err := startWorker()
	if err != nil {
		t.Fatal(err)
	}
	defer w.stop()
	r, err := w.play(order{Seed: seed, Plant: *planted, Print: true}, func(line string) { fmt.Println(line) })
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("seed %d: hash %x, %d acknowledged writes, %d elections\n", seed, r.Hash, r.Acks, r.Elections)
	if r.Failure != "" {
		t.Errorf("seed %d: %s", seed, r.Failure)
	}
}

// TestTheSameSeedIsTheSameRun plays seeds twice, in different processes.
func TestTheSameSeedIsTheSameRun(t *testing.T) {
	if os.Getenv("STOLON_SIM_WORKER") != "" || *oneSeed != 0 {
		t.Skip("not here")
	}
	if !*exact {
		t.Skip("Go's own runtime picks at random; ./test sim builds on one that doesn't")
	}
	runs := map[uint64]result{}
	var orders []order
	for _, print := range []bool{false, true} { // as it is found, and as it is replayed
		for n := range uint64(*twice) {
			orders = append(orders, order{Seed: 1_000_000 + n, Print: print})
		}
	}
	playAll(t, *workers, orders, func(o order, r result, err error) bool {
		if err != nil {
			t.Errorf("seed %d: %v", o.Seed, err)
			return false
		}
		if before, ok := runs[o.Seed]; ok && (before.Hash != r.Hash || before.Acks != r.Acks) {
			t.Errorf("seed %d ended as %x with %s acknowledged writes, and as %x with %s", o.Seed, before.Hash, strconv.Itoa(before.Acks), r.Hash, strconv.Itoa(r.Acks))
		}
		runs[o.Seed] = r
		return true
	})
}
