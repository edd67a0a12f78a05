package dial

import (
	"crypto/tls"
	"fmt"
	"os"
	"sync"
)

// A clientCert is the client's certificate and key, read from their files for
// every connection: renewed ones are used without a restart. While the files
// are being replaced they may not fit each other; the last pair that did is
// used then, as it is good until it expires.
type clientCert struct {
	certFile, keyFile string

	mu   sync.Mutex
	last *tls.Certificate
}

// newClientCert reads the files; what is wrong at the start is told at once.
func newClientCert(certFile, keyFile string) (*clientCert, error) {
	cert, err := readClientCert(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return &clientCert{certFile: certFile, keyFile: keyFile, last: cert}, nil
}

// get is for tls.Config.GetClientCertificate.
func (c *clientCert) get(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	cert, err := readClientCert(c.certFile, c.keyFile)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.last = cert
	}
	return c.last, nil
}

func readClientCert(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("--store-cert-file: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("--store-key: %w", err)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("--store-cert-file %s with --store-key %s: %w", certFile, keyFile, err)
	}
	return &cert, nil
}
