package forward

import (
	"io"
	"net"
	"testing"
	"time"
)

// awaitSuspect waits until the target is, or isn't, known to refuse.
func (w *world) awaitSuspect(want bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if refuses, _ := w.f.Suspect(); refuses == want {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("Suspect() is never %t", want)
		}
	}
}

// A client that is refused makes the master suspect; so does one whose
// connection the master ends, when that takes no other. It is looked at until
// it takes connections again.
func TestAMasterThatRefusesIsSuspect(t *testing.T) {
	w := newWorld(t, dialTCP)
	noticed := make(chan struct{}, 10)
	w.f.o.Noticed = func() { noticed <- struct{}{} }
	w.lead()
	client := w.connect()
	server := w.accept()
	send(t, server, "hello")
	receive(t, client, "hello")
	if refuses, ago := w.f.Suspect(); refuses || ago == 0 {
		t.Errorf("Suspect() = %t, %s with a client, want the master seen", refuses, ago)
	}
	w.back.Close()
	server.Close()
	w.awaitSuspect(true)
	<-noticed
	client.Close()
	back, err := net.Listen("tcp", w.target)
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	w.awaitSuspect(false)
	<-noticed

	back.Close()
	if _, err := io.ReadAll(w.connect()); err != nil {
		t.Errorf("a client without a master: %v", err)
	}
	w.awaitSuspect(true)
	w.f.Cut()
	w.awaitSuspect(false) // of nobody
	if _, ago := w.f.Suspect(); ago != 0 {
		t.Errorf("the master was seen %s ago, with no master", ago)
	}
}

// How long ago the master was heard of is told by the clock of the deadlines.
func TestBytesOfTheMasterAreASignOfLife(t *testing.T) {
	w := newWorld(t, dialTCP)
	w.lead()
	client, server := w.connect(), w.accept()
	send(t, server, "hello")
	receive(t, client, "hello")
	w.clock.Advance(3 * time.Second)
	if _, ago := w.f.Suspect(); ago != 3*time.Second {
		t.Errorf("seen %s ago, want 3s", ago)
	}
	send(t, client, "to it")
	receive(t, server, "to it")
	if _, ago := w.f.Suspect(); ago != 3*time.Second {
		t.Errorf("a client's bytes are a sign of life: seen %s ago", ago)
	}
	send(t, server, "from it")
	receive(t, client, "from it")
	if _, ago := w.f.Suspect(); ago > time.Millisecond {
		t.Errorf("seen %s ago, want now", ago)
	}
}
