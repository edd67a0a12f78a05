package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// longestAttempt is how long an endpoint may take while there are others
	// to ask: a stopped member must not cost a session its TTL.
	longestAttempt = time.Second
	// retryPause lies between two rounds through the endpoints.
	retryPause = 100 * time.Millisecond
)

// attempts does one request within the request timeout. It begins with the
// endpoint in use and goes on to the next one whenever an attempt failed for a
// reason that another attempt may not have. In the first round each endpoint
// has a short time only, in later ones half of what is left: while the others
// elect they refuse at once, and a stopped member that is asked again must not
// use up the time in which they could answer. It reports whether an earlier
// attempt ended without an answer, so may have been done too.
func (b *Backend) attempts(ctx context.Context, what string, do func(context.Context, *clientv3.Client) error) (lost bool, err error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, b.timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return false, fmt.Errorf("etcd: %s: %w", what, err)
	}
	var last error
	refusals := 0 // of certificates, in a row
	for n := 0; ; n++ {
		i := b.current.Load()
		err := b.attempt(ctx, n, i, do)
		if err == nil {
			return lost, nil
		}
		if !again(err) {
			return lost, fmt.Errorf("etcd: %s: %w", what, explained(err))
		}
		if wrong := wrongTLS(err); wrong == "" {
			refusals = 0
		} else if refusals++; refusals == len(b.clients) { // so say all
			return lost, fmt.Errorf("etcd %s: %s: check %s%s", strings.Join(b.endpoints, ","), what, wrong, reason(err))
		}
		if ctx.Err() == nil || last == nil {
			last = err // the end of the time is less telling than what came before
		}
		lost = lost || !neverSent(err)
		if ctx.Err() == nil {
			b.leave(i)
			if (n+1)%len(b.clients) == 0 {
				wait(ctx, retryPause)
			}
		}
		switch {
		case errors.Is(ctx.Err(), context.Canceled):
			return lost, fmt.Errorf("etcd: %s: %w", what, context.Canceled)
		case ctx.Err() != nil:
			b.leave(i)
			return lost, b.silent(what, time.Since(start), last)
		}
	}
}

// attempt asks one endpoint. One that nothing at all is heard of is hung up on,
// so that its watches move too, and whoever asks it next does so by a new
// connection: the old one may lead nowhere, while the endpoint, perhaps an
// address with several members behind it, is there.
func (b *Backend) attempt(ctx context.Context, n int, member int64, do func(context.Context, *clientv3.Client) error) error {
	began, heard, shortest := time.Now(), b.lines[member].heard(), b.timeout/10
	hangUp := func() {
		if time.Since(began) >= shortest {
			b.lines[member].hangUp(heard)
		}
	}
	if end, ok := ctx.Deadline(); ok && len(b.clients) == 1 {
		// Nobody else can be asked, so it has all the time as long as it lives.
		defer time.AfterFunc(max(time.Until(end)/2, shortest), hangUp).Stop()
	}
	if len(b.clients) > 1 {
		limit := min(longestAttempt, b.timeout/time.Duration(len(b.clients)))
		if end, ok := ctx.Deadline(); ok && n >= len(b.clients) {
			limit = max(time.Until(end)/2, retryPause)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	err := b.login.do(ctx, member, b.clients[member], do)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		hangUp()
	}
	return err
}

// leave makes the endpoint after i the one in use, unless somebody did.
func (b *Backend) leave(i int64) {
	b.current.CompareAndSwap(i, (i+1)%int64(len(b.clients)))
}

// again reports whether another attempt may fare better: no connection, no
// answer, no leader, an overloaded server. Anything else is etcd's answer.
func again(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true // of the attempt or of the call, which the caller looks at
	}
	switch code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted, codes.Internal:
		return true
	case codes.Unknown:
		// A connection that broke, unless it is a server's own words.
		return !errors.As(err, new(rpctypes.EtcdError))
	case codes.ResourceExhausted:
		return errors.Is(err, rpctypes.ErrTooManyRequests)
	}
	return false
}

// neverSent reports whether the request surely has not reached etcd.
func neverSent(err error) bool {
	if errors.As(err, new(*unsent)) {
		return true
	}
	text := err.Error()
	return code(err) == codes.Unavailable &&
		(strings.Contains(text, "transport: Error while dialing") || strings.Contains(text, "transport: authentication handshake failed") ||
			strings.Contains(text, "error reading server preface"))
}

func code(err error) codes.Code {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code()
	}
	return status.Code(err)
}

// explained adds what to look at.
func explained(err error) error {
	switch {
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("%w: it lets in users only; give --store-username and --store-password-file", err)
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("%w: the user needs readwrite on the keys below --store-prefix (etcdctl role grant-permission)", err)
	}
	return err
}

// silent is the error of a request that nobody answered. It unwraps to
// context.DeadlineExceeded.
func (b *Backend) silent(what string, after time.Duration, cause error) error {
	return &silentError{
		text: fmt.Sprintf("etcd %s does not answer within %s%s; check %s (%s)",
			strings.Join(b.endpoints, ","), after.Round(100*time.Millisecond), reason(cause), toCheck(cause), what),
	}
}

// toCheck is what to look at.
func toCheck(cause error) string {
	if wrong := wrongTLS(cause); wrong != "" {
		return wrong
	}
	return "--store-endpoints and that etcd has a quorum"
}

// wrongTLS is what to look at when a connection failed by what TLS is for, and
// "" when it didn't. gRPC tells what TLS said by words only.
func wrongTLS(err error) string {
	switch text := err.Error(); {
	case strings.Contains(text, "tls: failed to verify certificate"):
		return "--store-ca-file, and the host names of --store-endpoints: etcd's certificate is not trusted"
	case strings.Contains(text, "remote error: tls: "):
		return "--store-cert-file and --store-key: etcd refuses the client's certificate"
	}
	return ""
}

type silentError struct{ text string }

func (e *silentError) Error() string { return e.text }
func (e *silentError) Unwrap() error { return context.DeadlineExceeded }

// reason is the part of a cause that helps: what the dial said.
func reason(cause error) string {
	text := status.Convert(cause).Message()
	var e rpctypes.EtcdError
	switch {
	case errors.As(cause, &e):
		text = e.Error()
	case errors.Is(cause, context.DeadlineExceeded), code(cause) == codes.DeadlineExceeded:
		if !strings.Contains(text, "latest balancer error") {
			return ""
		}
	}
	for _, noise := range []string{"latest balancer error: ", `connection error: desc = "`, "transport: "} {
		if _, rest, ok := strings.Cut(text, noise); ok {
			text = rest
		}
	}
	return ": " + strings.TrimSuffix(strings.TrimPrefix(text, "Error while dialing: "), `"`)
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
