package forward

import "time"

// refusal bounds what a client may take to hear that it is refused. Health
// checks and port scanners never ask.
const refusal = time.Second

// refuse tells a client that it can't be served, as PostgreSQL would, and
// closes its connection. Whoever doesn't speak the protocol is just closed, and
// so is a cancel request, which PostgreSQL never answers.
func (c *newcomer) refuse(why string) {
	defer c.conn.Close()
	timer := time.AfterFunc(refusal, func() { c.conn.Close() })
	defer timer.Stop()
	// At most one request for each kind of encryption comes before the start-up
	// packet; both are answered "no".
	for range 3 {
		if c.start == nil {
			c.listen()
		}
		<-c.start.done
		switch kindOf(c.start.b) {
		case plain:
			// A client that has gone misses nothing.
			_, _ = c.conn.Write(fatal(cannotConnectNow, "stolon-proxy: "+why))
			return
		case request:
			if _, err := c.conn.Write([]byte{'N'}); err != nil {
				return
			}
			c.start = nil
		default:
			return
		}
	}
}
