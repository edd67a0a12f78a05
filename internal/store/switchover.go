package store

import (
	"context"
	"errors"
	"time"

	"stolon/internal/cluster"
)

// requestGrace is how much longer than its timeout a request stays.
const requestGrace = 10 * time.Second

// ErrSwitchover reports that another switchover is asked for.
var ErrSwitchover = errors.New("another switchover is under way; wait for its end")

// RequestSwitchover asks the leading sentinel for a switchover. The request
// goes by itself should no sentinel that knows it ever see it.
func (c *Client) RequestSwitchover(ctx context.Context, req cluster.SwitchoverRequest) error {
	lease, err := c.Grant(ctx, req.Timeout+requestGrace)
	if err != nil {
		return err
	}
	key := c.ExtKey(cluster.ExtSwitchoverRequest)
	_, err = c.Commit(ctx, []Condition{{Key: key}}, []Op{{Key: key, Value: Encode(req), Lease: lease}})
	if errors.Is(err, ErrConflict) {
		return ErrSwitchover
	}
	return err
}
