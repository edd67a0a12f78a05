package forward

import (
	"errors"
	"fmt"
	"io"
)

// An outcome is what came of an attempt to lead a client.
type outcome int

const (
	led    outcome = iota
	later          // it failed, after a pause there may be another
	atOnce         // the same, without a pause
	gone           // the client is cut off
)

// open passes the client's start-up on to the dialled server and looks at the
// first answer. One that only says that the server takes nobody at present is
// kept from the client, who is led again later with the same start-up. So is
// one whose server ends, or is cut off, before it has said a word. Of everything
// else open has passed on nothing but the answer to a request for encryption.
//
// A client that has not said anything is joined with the server already: who
// watches the proxy by such a connection sees a cut.
func (p *pair) open(c *newcomer) (outcome, string) {
	if c.f.o.HoldTimeout == 0 {
		return led, ""
	}
	for {
		if c.start == nil {
			c.listen()
		}
		p.answer = c.f.readAhead(p.server, readAnswer)
		if !p.hears(c) {
			return led, "" // the server speaks first, or has ended
		}
		if c.start.err != nil || kindOf(c.start.b) == other {
			return led, ""
		}
		if out, why := p.ask(c); out != led {
			p.drop()
			return out, why
		}
		if kindOf(c.start.b) != request || string(p.answer.b) != "N" {
			c.start.b = nil // it was passed on
			return led, ""
		}
		if _, err := p.client.Write(p.answer.b); err != nil {
			p.close()
			return gone, ""
		}
		c.start = nil
	}
}

// hears waits until the client, true, or its server has said something.
func (p *pair) hears(c *newcomer) bool {
	if !c.spoken() {
		select {
		case <-c.start.done:
		case <-p.answer.done:
		}
	}
	return c.spoken()
}

// ask has the server answer the client's start-up, and joins the two if it is
// not an answer to wait after. A cut meanwhile leaves the client alone.
func (p *pair) ask(c *newcomer) (outcome, string) {
	if !p.part() {
		return gone, ""
	}
	if c.encrypts() && !p.sure {
		return atOnce, "it isn't known whether the master accepts connections"
	}
	if !p.allowed() {
		return later, changing
	}
	if _, err := p.server.Write(c.start.b); err != nil {
		p.server.Close() // what it has said before is kept
	}
	<-p.answer.done
	if !p.allowed() {
		return later, changing
	}
	if why := p.weigh(c); why != "" {
		return later, why
	}
	if !p.attach(c.conn, p.server) {
		return later, changing
	}
	return led, ""
}

// weigh tells why the client should wait rather than get the server's answer;
// "" when it should get it.
func (p *pair) weigh(c *newcomer) string {
	if c.patience() <= 0 {
		return ""
	}
	v, says := judge(p.answer.b)
	switch {
	case len(p.answer.b) == 0 && !(c.once && errors.Is(p.answer.err, io.EOF)):
		// A reset: its listener has ended, and nobody has read the start-up. Else
		// only once: perhaps the start-up is what it ended of.
		c.once = true
		c.f.doubt(p.target)
		return "the master ends connections"
	case v == notNow:
		c.f.notNow(p.target, says)
		return notYet(says)
	case v == answered && kindOf(c.start.b) == plain:
		c.f.accepts(p.target)
	case v == notIn:
		if c.f.accepts(p.target) {
			return notYet(says)
		}
	}
	return ""
}

func notYet(says string) string { return fmt.Sprintf("the master accepts no connections: %s", says) }
