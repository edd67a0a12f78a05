package dial

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"stolon/tests/certs"
)

// handshake connects to a server with this certificate by what endpoint's
// configuration says.
func handshake(t *testing.T, conf *tls.Config, host, cert, key string) error {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if server, err := l.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, server) // the client tells how it went
			server.Close()
		}
	}()
	conf = conf.Clone()
	conf.ServerName = host // as etcd's and Consul's libraries do
	client, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", l.Addr().String(), conf)
	if err != nil {
		return err
	}
	return client.Close()
}

func TestServersAreVerifiedByTheFile(t *testing.T) {
	ours, theirs := certs.New(t, t.TempDir(), "ours"), certs.New(t, t.TempDir(), "theirs")
	cert, key := ours.Sign("server") // for localhost and 127.0.0.1
	file := t.TempDir() + "/ca"
	replace(t, file, ours.File)
	tests := []struct {
		endpoint, host string
		skip           bool
		good           bool
	}{
		{"https://localhost:1", "localhost", false, true},
		{"https://127.0.0.1:1", "127.0.0.1", false, true},
		{"https://example.org:1", "example.org", false, false},
		{"https://127.0.0.2:1", "127.0.0.2", false, false},
		{"https://[::1]:1", "::1", false, false},
		{"https://127.0.0.2:1", "127.0.0.2", true, true},
	}
	for _, tt := range tests {
		conf, err := TLS{CAFile: file, SkipVerify: tt.skip}.Config(tt.endpoint)
		if err != nil {
			t.Fatal(err)
		}
		if err := handshake(t, conf, tt.host, cert, key); (err == nil) != tt.good {
			t.Errorf("%s, not verified %t: %v, want it good: %t", tt.endpoint, tt.skip, err, tt.good)
		}
	}

	conf, err := TLS{CAFile: file}.Config("https://localhost:1")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		name   string
		change func()
		good   bool
	}{
		{"the file is gone", func() { os.Remove(file) }, true},
		{"the file has another authority", func() { replace(t, file, theirs.File) }, false},
		{"the file is junk", func() { replace(t, file, key) }, false},
		{"the file has the authority again", func() { replace(t, file, ours.File) }, true},
	} {
		step.change()
		err := handshake(t, conf, "localhost", cert, key)
		if (err == nil) != step.good || err != nil && !errors.As(err, new(*tls.CertificateVerificationError)) {
			t.Errorf("%s: %v, want it good: %t", step.name, err, step.good)
		}
	}
}
