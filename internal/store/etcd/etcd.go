// Package etcd is the store on etcd's v3 API.
package etcd

import (
	"errors"
	"time"

	"stolon/internal/store"
)

// DefaultTimeout is the time one request may take where the configuration
// doesn't say.
const DefaultTimeout = 5 * time.Second

// Config says where etcd is and how to reach it.
type Config struct {
	Endpoints     string
	Timeout       time.Duration
	CertFile      string
	KeyFile       string
	CAFile        string
	SkipTLSVerify bool
}

// Open returns a client.
func Open(c Config) (store.Backend, error) { return nil, errors.New("not written yet") }
