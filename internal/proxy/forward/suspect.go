package forward

import (
	"cmp"
	"context"
	"errors"
	"syscall"
	"time"

	"go.uber.org/zap"
)

const (
	// probePause lies between two looks at a target that refuses connections.
	probePause = 250 * time.Millisecond
	// longestPause lies between two looks at one that takes connections, but no
	// clients. Only one process of a server is busy with a look.
	longestPause = 100 * time.Millisecond
	// prober is whom a probe says to be. Nobody needs to know that user: where
	// the server asks for a password, the probe has its answer.
	prober = "stolon-proxy"
	// fresh is how long an answer holds without a connection that vouches for
	// it. No server ends and starts again in that time.
	fresh = 20 * time.Millisecond
)

// state is what is known of the target's will to take clients. A server that
// starts or shuts down takes connections and refuses everybody (57P03), and one
// that keeps users out until its standbys have caught up refuses them by
// pg_hba.conf (protocols.md K10).
type state struct {
	notNow string // why nobody is dialled through at present; "" nothing known
	// keepsOut is why nobody is whose answer can't be read: a probe was let in
	// (letsIn) before the server was down, and is not since.
	keepsOut string
	letsIn   bool
	probed   bool // a probe was answered, and it was not down since
	// sure: it accepted clients, and nothing has spoken against it since.
	sure   bool
	sureAt time.Duration
	living int           // connections through which its end would be noticed
	down   bool          // it refused everybody, and was not seen to accept anybody since
	upAt   time.Duration // when it was first seen to accept clients after that; 0 never
}

// isDown notes that the server refuses everybody.
func (s *state) isDown() { s.sure, s.probed, s.down = false, false, true }

// Suspect reports whether the target refuses connections, and how long ago it
// was last seen to live: it took a connection or a byte came from it; 0 if it
// wasn't since it is the target (protocols.md P9).
func (f *Forwarder) Suspect() (refuses bool, ago time.Duration) {
	seen, now := time.Duration(f.seen.Load()), f.o.Clock()
	if seen != 0 {
		ago = max(now-seen, 1)
	}
	return f.suspects.Load(), ago
}

// unknow forgets what was known of the target. It is called with mu held.
func (f *Forwarder) unknow() {
	f.suspects.Store(false)
	f.seen.Store(0)
	f.state = state{living: f.state.living}
}

// live counts the connections that bytes pass through. Those of an earlier
// target count until they are closed; meanwhile nothing is sure.
func (f *Forwarder) live(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.living += n
}

// vouched reports whether the target is known to accept clients. An idle
// connection vouches for it: the end of a server is the end of them all.
func (f *Forwarder) vouched() bool {
	now := f.o.Clock()
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.state
	return s.sure && s.probed && s.keepsOut == "" && (s.living > 0 || now-s.sureAt < fresh)
}

// asked is vouched after a question, unless the answer is known to be no.
func (f *Forwarder) asked(limit time.Duration) (sure bool, why string) {
	f.mu.Lock()
	why = cmp.Or(f.state.notNow, f.state.keepsOut)
	f.mu.Unlock()
	if why != "" {
		return false, why
	}
	why = f.ask(limit)
	return why == "", why
}

// doubt notes that the target may be at its end.
func (f *Forwarder) doubt(target string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.target == target {
		f.state.sure = false
	}
}

// notNow notes that the target accepts nobody. From now on nobody is dialled
// through; a probe asks whether it does again.
func (f *Forwarder) notNow(target, says string) {
	f.mu.Lock()
	if f.target != target || f.o.HoldTimeout == 0 {
		f.mu.Unlock()
		return
	}
	news := f.state.notNow == ""
	f.state.notNow = notYet(says)
	f.state.isDown()
	if news {
		f.wake() // also a probe that pauses
	}
	f.mu.Unlock()
	if news {
		f.o.Log.Info("the master accepts no connections, clients wait", zap.String("address", target), zap.String("why", says))
	}
	f.probe()
}

// accepts notes that the target accepts clients, and reports whether it has
// begun to within HoldTimeout. Users who are refused then may be let in soon.
func (f *Forwarder) accepts(target string) (lately bool) {
	now := f.o.Clock()
	f.mu.Lock()
	s := &f.state
	if f.target != target {
		f.mu.Unlock()
		return false
	}
	news := s.notNow != ""
	if s.down {
		s.down, s.upAt = false, now
	}
	s.sure, s.sureAt = true, now
	if news {
		s.notNow = ""
		f.wake()
	}
	lately = s.upAt != 0 && now-s.upAt < f.o.HoldTimeout
	f.mu.Unlock()
	if news {
		f.o.Log.Info("the master accepts connections again", zap.String("address", target))
	}
	return lately
}

// letIn notes whether a probe was let in, and returns why whoever can't be told
// apart from it should wait.
func (f *Forwarder) letIn(target string, in bool, says string) (why string) {
	lately := f.accepts(target)
	f.mu.Lock()
	s := &f.state
	if f.target != target {
		f.mu.Unlock()
		return changing
	}
	s.probed = true
	if !in && lately && s.letsIn {
		why = notYet(says)
	} else {
		s.letsIn = in
	}
	news := (why == "") != (s.keepsOut == "")
	if s.keepsOut = why; news {
		f.wake()
	}
	f.mu.Unlock()
	if why != "" {
		f.probe()
	}
	return why
}

// heard notes that a byte came from the master, at this moment. Of one that
// is suspect that is news.
func (f *Forwarder) heard(now time.Duration) {
	f.seen.Store(int64(now))
	if f.suspects.Load() && f.o.Noticed != nil {
		f.o.Noticed()
	}
}

// dialled notes what a dial of target told of it. A connection that can't be
// made for another reason than a refusal tells nothing for certain.
func (f *Forwarder) dialled(target string, err error) {
	if err != nil {
		f.doubt(target)
	}
	refused := errors.Is(err, syscall.ECONNREFUSED)
	if err != nil && !refused {
		return
	}
	now := f.o.Clock()
	f.mu.Lock()
	changed := f.target == target && f.suspects.Load() != refused
	if f.target == target {
		f.suspects.Store(refused)
		if refused {
			f.state.isDown()
		} else {
			f.seen.Store(int64(now))
		}
	}
	f.mu.Unlock()
	if changed && f.o.Noticed != nil {
		f.o.Noticed()
	}
	if changed && refused {
		f.probe()
	}
}

// probe looks whether the target accepts clients: when it has ended a
// connection that its client hasn't, and again and again while it refuses them.
// One goroutine does so at a time.
func (f *Forwarder) probe() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.probing || f.target == "" {
		return
	}
	f.probing = true
	f.group.Go(func() {
		for pause := firstRetry; ; pause = min(2*pause, longestPause) {
			changed := f.change()
			f.ask(dialTimeout)
			again, refuses := f.probeAgain()
			switch {
			case !again:
				return
			case refuses:
				pause = probePause
			}
			t := time.NewTimer(pause)
			select {
			case <-f.closing:
			case <-changed:
				pause = firstRetry
			case <-t.C:
			}
			t.Stop()
		}
	})
}

// probeAgain reports whether another look is due, and whether the target
// refuses connections. If not, the next one takes another probe.
func (f *Forwarder) probeAgain() (again, refuses bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	refuses = f.suspects.Load()
	f.probing = (refuses || f.state.notNow != "" || f.state.keepsOut != "") && f.target != "" && !f.closed()
	return f.probing, refuses
}

// ask dials the target and begins a session, only to see whether its answer is
// that of a server that is not in service; then it says what waiting is for.
func (f *Forwarder) ask(limit time.Duration) (why string) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	target, changed := f.Target(), f.change()
	if target == "" || f.closed() {
		return noMaster
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() { // what hangs must not outlive its route
		select {
		case <-changed:
		case <-f.closing:
		case <-stop:
		}
		cancel()
	}()
	conn, err := f.o.Dial(ctx, target)
	f.dialled(target, err)
	if err != nil {
		return unreachable
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if _, err := conn.Write(startPacket(prober, "postgres")); err != nil {
		return unreachable
	}
	b, _ := readAnswer(conn)
	switch v, says := judge(b); v {
	case notNow:
		f.notNow(target, says)
		return notYet(says)
	case answered, notIn:
		return f.letIn(target, v == answered, says)
	}
	return unreachable
}
