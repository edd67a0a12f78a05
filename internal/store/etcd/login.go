package etcd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"

	"stolon/internal/log"
	"stolon/internal/store/dial"
)

// retryLogin is how long a refused password isn't tried again. etcd works for
// a tenth of a second on each try, and all watches of all processes would ask.
const retryLogin = 3 * time.Second

// A login is a user of etcd and the tokens that the members gave for the
// password, each for itself: a member forgets its tokens after a time and
// when it restarts.
//
// etcd's own client does this too, but asks for the first token when it is
// made, so that no process could start while etcd is away, keeps the password
// of then, and renews no token for the streams that are opened here by hand.
type login struct {
	user     string
	password dial.Password
	members  []chan struct{} // holds a thing while somebody asks that member for a token

	mu     sync.Mutex
	tokens map[int64]string // by member; "" where etcd asks for no user
	worked log.Secret
	// refusal is what etcd said to these passwords, at that time.
	refusal error
	tried   [2]log.Secret
	at      time.Time
}

// newLogin reads the password; what is wrong at the start is told at once.
func newLogin(user string, password dial.Password, members int) (*login, error) {
	if err := password.Check(user); err != nil {
		return nil, err
	}
	if user == "" {
		return nil, nil
	}
	if _, err := password.Read(); err != nil {
		return nil, err
	}
	l := &login{user: user, password: password, tokens: map[int64]string{}}
	for range members {
		l.members = append(l.members, make(chan struct{}, 1))
	}
	return l, nil
}

// An unsent error is why a request was not made: there is no token for it.
type unsent struct{ error }

func (e *unsent) Unwrap() error { return e.error }

// do does a request to a member with a token. When the member doesn't know
// the token any more it gets another one and is asked again: such a refusal
// promises that nothing was done. l is nil without a user; who is known by
// certificate is refused, too, while users change.
func (l *login) do(ctx context.Context, member int64, c *clientv3.Client, request func(context.Context, *clientv3.Client) error) error {
	for again := false; ; again = true {
		token, err := l.token(ctx, member, c)
		if err != nil {
			return &unsent{err}
		}
		err = rpctypes.Error(request(with(ctx, token), c))
		if !stale(err) {
			return err
		}
		l.forget(member, token)
		if again {
			return err
		}
	}
}

// with adds the token to what is sent under ctx.
func with(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// stale reports whether etcd refused a request for want of a token that is
// good now. It has none where it began to ask for users after the token was
// asked for.
func stale(err error) bool {
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthOldRevision) || errors.Is(err, rpctypes.ErrUserEmpty)
}

// token returns the one for the member, "" where etcd asks for no user. Who
// asks for it lets the others wait.
func (l *login) token(ctx context.Context, member int64, c *clientv3.Client) (string, error) {
	if l == nil {
		return "", nil
	}
	if token, ok := l.known(member); ok {
		return token, nil
	}
	select {
	case l.members[member] <- struct{}{}:
		defer func() { <-l.members[member] }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if token, ok := l.known(member); ok {
		return token, nil
	}
	token, err := l.authenticate(ctx, c)
	if err != nil && !errors.Is(err, rpctypes.ErrAuthNotEnabled) {
		return "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tokens[member] = token
	return token, nil
}

func (l *login) known(member int64) (token string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	token, ok = l.tokens[member]
	return token, ok
}

// forget forgets the member's token, if it still is this one.
func (l *login) forget(member int64, token string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tokens[member] == token {
		delete(l.tokens, member)
	}
}

// authenticate gives etcd the password, and then the one that was good before:
// when a password is changed the file and etcd don't change in one moment.
func (l *login) authenticate(ctx context.Context, c *clientv3.Client) (string, error) {
	passwords, err := l.passwords()
	if err != nil {
		return "", err
	}
	var refusal error
	for _, p := range passwords {
		if p == "" {
			continue
		}
		resp, err := c.Authenticate(ctx, l.user, string(p))
		err = rpctypes.Error(err)
		if errors.Is(err, rpctypes.ErrAuthFailed) {
			refusal = &refused{fmt.Sprintf("etcd refuses user %q with the password given; check --store-username and %s", l.user, l.password.Source()), err}
			continue
		}
		if err != nil {
			return "", err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.worked, l.refusal = p, nil
		return resp.Token, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refusal, l.tried, l.at = refusal, passwords, time.Now()
	return "", refusal
}

// passwords returns what to try, or the error of the last try where that was
// a moment ago.
func (l *login) passwords() (passwords [2]log.Secret, err error) {
	passwords[0], err = l.password.Read()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.worked != passwords[0] {
		passwords[1] = l.worked
	}
	switch {
	case err != nil && l.worked == "":
		return passwords, err
	case l.refusal != nil && l.tried == passwords && time.Since(l.at) < retryLogin:
		return passwords, l.refusal
	}
	return passwords, nil
}

// refused is etcd's no to a password.
type refused struct {
	text  string
	cause error
}

func (e *refused) Error() string { return e.text }
func (e *refused) Unwrap() error { return e.cause }
