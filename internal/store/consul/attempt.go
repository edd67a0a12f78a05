package consul

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// retryPause lies between two attempts of a request.
const retryPause = 100 * time.Millisecond

// attempts does one request within the request timeout. It tries again when
// an attempt failed for a reason that another one may not have: no connection,
// no leader. Each has half of what is left, and no less than a tenth of the
// whole, as a connection that died unseen answers nothing and the next attempt
// makes a new one. It reports
// whether an earlier attempt ended without an answer, so may have been done
// too.
func (b *Backend) attempts(ctx context.Context, what string, do func(context.Context) error) (lost bool, err error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	var last error
	for {
		if errors.Is(ctx.Err(), context.Canceled) {
			return lost, fmt.Errorf("consul: %s: %w", what, context.Canceled)
		}
		end, _ := ctx.Deadline()
		attempt, cancel := context.WithTimeout(ctx, max(time.Until(end)/2, b.timeout/10))
		err := do(attempt)
		cancel()
		if err == nil {
			return lost, nil
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return lost, fmt.Errorf("consul: %s: %w", what, context.Canceled)
		}
		if !again(err) {
			return lost, fmt.Errorf("consul: %s: %w", what, explained(err))
		}
		if !errors.As(err, new(*statusError)) {
			b.disturbed()
			b.http.CloseIdleConnections() // they may lead nowhere either
		}
		if last == nil || !errors.Is(err, context.DeadlineExceeded) {
			last = err // the end of the time is less telling than what came before
		}
		lost = lost || !neverDone(err)
		wait(ctx, retryPause)
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return lost, b.silent(what, time.Since(start), last)
		}
	}
}

// again reports whether another attempt may fare better.
func again(err error) bool {
	var status *statusError
	switch {
	case errors.As(err, &status):
		// Consul tells a missing leader and a wrong request by the same status.
		return (status.code >= 500 || status.code == http.StatusTooManyRequests) && !strings.Contains(status.text, shortTTL)
	case errors.Is(err, errLockDelay):
		return true
	case errors.As(err, new(*refusal)), errors.As(err, new(*tokenError)), errors.As(err, new(*tls.CertificateVerificationError)), tlsAlert(err):
		return false
	}
	return true // no connection, or one that broke
}

// neverDone reports whether the request surely had no effect.
func neverDone(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		return status.code == http.StatusTooManyRequests || strings.Contains(status.text, "No cluster leader")
	}
	var op *net.OpError
	return errors.Is(err, errLockDelay) || errors.As(err, &op) && op.Op == "dial"
}

// tlsAlert reports whether the other side ended the handshake, as it does with
// a client that has no certificate or the wrong one.
func tlsAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// explained adds what to look at.
func explained(err error) error {
	var status *statusError
	switch {
	case errors.As(err, &status) && status.code == http.StatusForbidden:
		return fmt.Errorf("%s; the token is given by --store-token-file or %s", strings.TrimSpace(status.text), api.HTTPTokenEnvName)
	case errors.As(err, new(*tls.CertificateVerificationError)):
		return fmt.Errorf("the certificate of Consul is not trusted; check --store-ca-file: %w", err)
	case tlsAlert(err):
		return fmt.Errorf("Consul refuses the client's certificate; check --store-cert-file and --store-key: %w", err) //nolint:staticcheck // a name
	}
	return err
}

// silent is the error of a request that nobody answered. It unwraps to
// context.DeadlineExceeded.
func (b *Backend) silent(what string, after time.Duration, cause error) error {
	text := ""
	if !errors.Is(cause, context.DeadlineExceeded) {
		text = ": " + reason(cause)
	}
	return &silentError{fmt.Sprintf("consul %s does not answer within %s%s; check --store-endpoints and that Consul has a leader (%s)",
		b.endpoint, after.Round(100*time.Millisecond), text, what)}
}

type silentError struct{ text string }

func (e *silentError) Error() string { return e.text }
func (e *silentError) Unwrap() error { return context.DeadlineExceeded }

// reason is the part of a cause that helps: without the URL of the request.
func reason(cause error) string {
	var op *net.OpError
	if errors.As(cause, &op) {
		return op.Error()
	}
	var status *statusError
	if errors.As(cause, &status) {
		return status.Error()
	}
	return cause.Error()
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
