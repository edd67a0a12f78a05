package forward

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestKindOf(t *testing.T) {
	tests := []struct {
		name, b string
		want    kind
	}{
		{"start-up packet", startup(protocol3, userPacket), plain},
		{"newer protocol", startup(protocol3+2, userPacket), plain},
		{"older protocol", startup(2<<16, userPacket), other},
		{"TLS", startup(sslRequest, ""), request},
		{"GSS", startup(gssRequest, ""), request},
		{"TLS without a request", "\x16\x03\x01\x02\x00\x01", encrypted},
		{"cancel request", startup(cancelRequest, "12345678"), other},
		{"incomplete", startup(protocol3, userPacket)[:20], other},
		{"another protocol", "GET / HT", other},
		{"nothing", "", other},
	}
	for _, tt := range tests {
		if got := kindOf([]byte(tt.b)); got != tt.want {
			t.Errorf("%s: kindOf(%q) = %d, want %d", tt.name, tt.b, got, tt.want)
		}
	}
}

func TestJudge(t *testing.T) {
	negotiated := "v\x00\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00"
	tests := []struct {
		name, b string
		want    verdict
		says    string
	}{
		{"starting up", string(fatal("57P03", "the database system is starting up")), notNow, "the database system is starting up"},
		{"after a negotiation", negotiated + string(fatal("57P03", "shutting down")), notNow, "shutting down"},
		{"no entry", string(fatal("28000", "no pg_hba.conf entry")), notIn, "no pg_hba.conf entry"},
		{"another error", string(fatal("53300", "too many clients")), answered, "too many clients"},
		{"the words of one in another's text", string(fatal("53300", "57P03")), answered, "57P03"},
		{"the beginning of an error", string(fatal("57P03", "starting"))[:20], unclear, ""},
		{"the beginning of a negotiation", negotiated[:3], unclear, ""},
		{"a negotiation", negotiated, unclear, ""},
		{"a negotiation, then a password asked for", negotiated + "R", answered, ""},
		{"a password asked for", "R\x00\x00\x00\x08\x00\x00\x00\x03", answered, ""},
		{"no TLS", "N", answered, ""},
		{"an error before version 3", "Ecould not fork new process for connection\n\x00", answered, ""},
		{"a field without an end", "E\x00\x00\x00\x0aC57P03", answered, ""},
		{"nothing", "", unclear, ""},
	}
	for _, tt := range tests {
		if got, says := judge([]byte(tt.b)); got != tt.want || says != tt.says {
			t.Errorf("%s: judge(%q) = %d, %q, want %d, %q", tt.name, tt.b, got, says, tt.want, tt.says)
		}
	}
}

func TestAnswersAreReadAsFarAsNeeded(t *testing.T) {
	long := string(fatal("57P03", strings.Repeat("x", longestAnswer-100)))
	endless := strings.Repeat("v\x00\x00\x00\x04", longestAnswer)
	tests := []struct{ name, b, want string }{
		{"an error in pieces", long + "more", long},
		{"a password asked for", "Rest", "R"},
		{"the end", long[:100], long[:100]},
	}
	for _, tt := range tests {
		got, err := readAnswer(iotest.OneByteReader(strings.NewReader(tt.b)))
		if string(got) != tt.want || err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("%s: readAnswer = %d bytes, %v, want %d", tt.name, len(got), err, len(tt.want))
		}
	}
	if got, err := readAnswer(strings.NewReader(endless)); err != nil || len(got) > 2*longestAnswer {
		t.Errorf("readAnswer of an endless one = %d bytes, %v", len(got), err)
	}
}

func FuzzReadPacket(f *testing.F) {
	f.Add([]byte(startup(protocol3, userPacket) + "rest"))
	f.Add([]byte(startup(sslRequest, "")))
	f.Add([]byte("\x00\x00\x00\x04\x00\x00\x00\x00"))
	f.Add([]byte("\x16\x03"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		got, err := readPacket(iotest.OneByteReader(r))
		if !bytes.HasPrefix(b, got) || len(b)-r.Len() != len(got) {
			t.Errorf("readPacket(%q) = %q, having read %d bytes", b, got, len(b)-r.Len())
		}
		if k := kindOf(got); err != nil && (k == plain || k == request) {
			t.Errorf("readPacket(%q) = %q of kind %d, and %v", b, got, k, err)
		}
	})
}

func FuzzJudge(f *testing.F) {
	f.Add(fatal("57P03", "the database system is starting up"))
	f.Add([]byte("v\x00\x00\x00\x04E\x00\x00\x00\x05\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, _ := judge(b)
		// What was told from the beginning doesn't change with what follows.
		if again, _ := judge(append(bytes.Clone(b), "more"...)); v != unclear && again != v {
			t.Errorf("judge(%q) = %d, and with more %d", b, v, again)
		}
		if got, _ := readAnswer(iotest.OneByteReader(bytes.NewReader(b))); !bytes.HasPrefix(b, got) {
			t.Errorf("readAnswer(%q) = %q", b, got)
		}
	})
}
