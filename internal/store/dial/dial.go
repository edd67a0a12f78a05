// Package dial says how a store is reached: what --store-endpoints and the TLS
// flags mean, which is the same for every backend. It connects to nobody.
package dial

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
)

// Endpoints takes the value of --store-endpoints apart, by 0.17's rules: URLs
// without path, all http or all https.
func Endpoints(s string) (endpoints []string, https bool, err error) {
	scheme := ""
	for _, item := range strings.Split(s, ",") {
		if !strings.Contains(item, "://") {
			item = "http://" + item
		}
		if strings.Contains(item, "@") {
			// The item is not shown: it holds a password.
			return nil, false, errors.New("--store-endpoints: user and password in an endpoint are not supported")
		}
		u, err := url.Parse(item)
		if err != nil {
			return nil, false, fmt.Errorf("--store-endpoints: %w", err)
		}
		if u.Scheme != "http" && u.Scheme != "https" {
			return nil, false, errors.New("endpoints scheme must be http or https")
		}
		if _, port, err := net.SplitHostPort(u.Host); err != nil || port == "" || u.Hostname() == "" {
			return nil, false, fmt.Errorf("--store-endpoints: %q is not host:port, http://host:port or https://host:port", item)
		}
		if scheme != "" && u.Scheme != scheme {
			return nil, false, errors.New("all the endpoints must have the same scheme")
		}
		scheme = u.Scheme
		endpoints = append(endpoints, u.Scheme+"://"+u.Host)
	}
	return endpoints, scheme == "https", nil
}

// TLS is what the flags say about certificates.
type TLS struct {
	CertFile   string // --store-cert-file, the client's certificate; with KeyFile or without it neither
	KeyFile    string // --store-key
	CAFile     string // --store-ca-file: who signed the store's; "" is the system's roots
	SkipVerify bool   // --store-skip-tls-verify
}

// Config is for connections to an endpoint. It reads the files that the flags
// name, also when nothing is reached by https: a wrong flag is wrong either way.
func (c TLS) Config(endpoint string) (*tls.Config, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return nil, fmt.Errorf("--store-endpoints: %w", err)
	}
	conf := &tls.Config{InsecureSkipVerify: c.SkipVerify} //nolint:gosec // asked for by name
	switch {
	case c.CertFile != "" && c.KeyFile == "":
		return nil, errors.New("--store-cert-file is given without --store-key; a client certificate needs both")
	case c.CertFile == "" && c.KeyFile != "":
		return nil, errors.New("--store-key is given without --store-cert-file; a client certificate needs both")
	case c.CertFile != "":
		cert, err := newClientCert(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, err
		}
		conf.GetClientCertificate = cert.get
	}
	if c.CAFile != "" {
		trusted, err := newAuthorities(c.CAFile)
		if err != nil {
			return nil, err
		}
		if !c.SkipVerify {
			conf.InsecureSkipVerify, conf.VerifyConnection = true, trusted.verifier(u.Hostname())
		}
	}
	return conf, nil
}
