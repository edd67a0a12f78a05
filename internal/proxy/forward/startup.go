package forward

import (
	"bytes"
	"encoding/binary"
	"io"
)

const (
	// longestStartup is PostgreSQL's own limit, longestAnswer more than a server
	// says before it lets a client in.
	longestStartup, longestAnswer = 10000, 8192

	cancelRequest = 80877102
	sslRequest    = 80877103
	gssRequest    = 80877104
	protocol3     = 3 << 16 // and above
	handshake     = 0x16    // what TLS begins with

	// cannotConnectNow is the SQLSTATE that clients may try again after;
	// notAllowed is also that of a client whom no line of pg_hba.conf lets in.
	cannotConnectNow, notAllowed = "57P03", "28000"
)

// A kind is what the first bytes of a client are.
type kind int

const (
	other     kind = iota // nothing that waiting is for; passed on as it comes
	plain                 // a start-up packet
	request               // the request to negotiate encryption
	encrypted             // encryption that begins without a request
)

// kindOf tells what bytes are that readPacket has read. To cancel something is
// of no kind: it must not be asked for twice.
func kindOf(b []byte) kind {
	switch code := codeOf(b); {
	case code == sslRequest || code == gssRequest:
		return request
	case code != cancelRequest && code >= protocol3:
		return plain
	case len(b) > 0 && b[0] == handshake:
		return encrypted
	}
	return other
}

// codeOf is the number that says what a packet of a client's start-up is, 0 for
// none.
func codeOf(b []byte) uint32 {
	if len(b) < 8 || int(binary.BigEndian.Uint32(b)) != len(b) {
		return 0
	}
	return binary.BigEndian.Uint32(b[4:])
}

// readPacket reads one packet of a client's start-up and no byte beyond it. Of
// a client that doesn't speak the protocol it returns the first bytes.
func readPacket(r io.Reader) ([]byte, error) {
	b := make([]byte, 8)
	n, err := io.ReadAtLeast(r, b, 1)
	if err != nil || b[0] != 0 { // a length below longestStartup begins with 0
		return b[:n], err
	}
	more, err := io.ReadFull(r, b[n:])
	if err != nil {
		return b[:n+more], err
	}
	length := int(binary.BigEndian.Uint32(b))
	if length < len(b) || length > longestStartup {
		return b, nil
	}
	b = append(b, make([]byte, length-len(b))...)
	n, err = io.ReadFull(r, b[8:])
	return b[:8+n], err
}

// startPacket is the start-up packet of a user.
func startPacket(user, database string) []byte {
	body := binary.BigEndian.AppendUint32(nil, protocol3)
	body = append(body, "user\x00"+user+"\x00database\x00"+database+"\x00\x00"...)
	return append(binary.BigEndian.AppendUint32(nil, uint32(4+len(body))), body...)
}

// readAnswer reads until judge can tell what the server's first answer is.
func readAnswer(r io.Reader) ([]byte, error) {
	b := make([]byte, 0, 512)
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if v, _ := judge(b); err != nil || v != unclear || len(b) > longestAnswer {
			return b, err
		}
	}
}

// A verdict is what the first answer of a server means.
type verdict int

const (
	unclear  verdict = iota // there must be more to it
	answered                // it deals with the client
	notNow                  // it doesn't accept connections at present
	notIn                   // pg_hba.conf has no line for the client
)

// judge tells what an answer is, and what it says in words if it is a refusal.
func judge(b []byte) (v verdict, says string) {
	for len(b) > 0 {
		if b[0] != 'E' && b[0] != 'v' { // v: what it doesn't know of the protocol
			return answered, ""
		}
		if len(b) < 5 {
			return unclear, ""
		}
		length := binary.BigEndian.Uint32(b[1:])
		if length < 4 || length > longestAnswer {
			return answered, "" // not this protocol
		}
		if uint32(len(b)) < 1+length {
			return unclear, ""
		}
		message := b[5 : 1+length]
		if b[0] == 'E' {
			return judgeError(message)
		}
		b = b[1+length:]
	}
	return unclear, ""
}

// judgeError reads the fields of an ErrorResponse: a letter and a string each.
func judgeError(b []byte) (v verdict, says string) {
	v = answered
	for len(b) > 0 && b[0] != 0 {
		value, rest, ok := bytes.Cut(b[1:], []byte{0})
		if !ok {
			return answered, ""
		}
		switch field := b[0]; {
		case field == 'C' && string(value) == cannotConnectNow:
			v = notNow
		case field == 'C' && string(value) == notAllowed:
			v = notIn
		case field == 'M':
			says = string(value)
		}
		b = rest
	}
	return v, says
}

// fatal is an ErrorResponse after which the server ends the connection.
func fatal(sqlstate, message string) []byte {
	body := "SFATAL\x00VFATAL\x00C" + sqlstate + "\x00M" + message + "\x00\x00"
	b := append([]byte{'E'}, binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))...)
	return append(b, body...)
}
