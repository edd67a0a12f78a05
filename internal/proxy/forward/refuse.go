package forward

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"
)

const (
	// refusal bounds what a client may take to hear that it is refused. Health
	// checks and port scanners never ask.
	refusal = time.Second
	// cannotConnectNow is the SQLSTATE that clients may try again after.
	cannotConnectNow = "57P03"
	// longestStartup is PostgreSQL's own limit.
	longestStartup = 10000

	cancelRequest = 80877102
	sslRequest    = 80877103
	gssRequest    = 80877104
	protocol3     = 3 << 16 // and above
)

// refuse tells a client that it can't be served, as PostgreSQL would, and
// closes its connection. Whoever doesn't speak the protocol is just closed, and
// so is a cancel request, which PostgreSQL never answers.
func refuse(client net.Conn, why string) {
	defer client.Close()
	timer := time.AfterFunc(refusal, func() { client.Close() })
	defer timer.Stop()
	// At most one request for each kind of encryption comes before the start-up
	// packet; both are answered "no".
	for range 3 {
		code, err := readStartup(client)
		if err != nil {
			return
		}
		switch {
		case code == sslRequest || code == gssRequest:
			if _, err := client.Write([]byte{'N'}); err != nil {
				return
			}
		case code == cancelRequest || code < protocol3:
			return
		default:
			// A client that has gone misses nothing.
			_, _ = client.Write(fatal(cannotConnectNow, "stolon-proxy: "+why))
			return
		}
	}
}

// readStartup reads one packet of a client's start-up and returns the number
// that says what it is.
func readStartup(r io.Reader) (code uint32, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	length := binary.BigEndian.Uint32(head[:4])
	if length < uint32(len(head)) || length > longestStartup {
		return 0, errors.New("not a start-up packet of PostgreSQL")
	}
	// What is left unread would make the close a reset, which can overtake the
	// answer.
	_, err = io.CopyN(io.Discard, r, int64(length)-int64(len(head)))
	return binary.BigEndian.Uint32(head[4:]), err
}

// fatal is an ErrorResponse after which the server ends the connection.
func fatal(sqlstate, message string) []byte {
	body := "SFATAL\x00VFATAL\x00C" + sqlstate + "\x00M" + message + "\x00\x00"
	b := append([]byte{'E'}, binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))...)
	return append(b, body...)
}
