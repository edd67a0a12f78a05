package dial

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
)

// Authorities are those who may have signed a store's certificate, read from their
// file for every connection: those that are added or removed count without a
// restart. While the file is being replaced it may hold nothing; what it held
// before is used then.
type authorities struct {
	file string

	mu   sync.Mutex
	last *x509.CertPool
}

// newAuthorities reads the file; what is wrong at the start is told at once.
func newAuthorities(file string) (*authorities, error) {
	pool, err := readAuthorities(file)
	if err != nil {
		return nil, err
	}
	return &authorities{file: file, last: pool}, nil
}

func (a *authorities) get() *x509.CertPool {
	pool, err := readAuthorities(a.file)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.last = pool
	}
	return a.last
}

// verifier is for tls.Config.VerifyConnection: it does what crypto/tls does
// itself with Config.RootCAs, which can't change. host is who was dialled; the
// state of the connection names it only where it isn't an address.
func (a *authorities) verifier(host string) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		opts := x509.VerifyOptions{Roots: a.get(), DNSName: host, Intermediates: x509.NewCertPool()}
		for _, cert := range state.PeerCertificates[1:] {
			opts.Intermediates.AddCert(cert)
		}
		if _, err := state.PeerCertificates[0].Verify(opts); err != nil {
			return &tls.CertificateVerificationError{UnverifiedCertificates: state.PeerCertificates, Err: err}
		}
		return nil
	}
}

func readAuthorities(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--store-ca-file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--store-ca-file %s holds no PEM certificate", file)
	}
	return pool, nil
}
