package servers

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Counts are etcd's own, since its start.
type Counts struct {
	// Requests by the name of the method. Of lease renewals, each of which has a
	// stream of its own, the streams.
	Requests      map[string]float64
	Read, Written float64 // bytes that came from and went to clients
}

// Counts asks etcd.
func (s *Store) Counts() (Counts, error) {
	resp, err := http.Get(s.Endpoint + "/metrics")
	if err != nil {
		return Counts{}, err
	}
	defer resp.Body.Close()
	return readCounts(resp.Body)
}

func readCounts(metrics io.Reader) (Counts, error) {
	c := Counts{Requests: map[string]float64{}}
	lines := bufio.NewScanner(metrics)
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		name, labels, _ := strings.Cut(name, "{")
		_, method, _ := strings.Cut(labels, `grpc_method="`)
		method, _, _ = strings.Cut(method, `"`)
		var to *float64
		sum := c.Requests[method]
		switch renewal := method == "LeaseKeepAlive"; {
		case name == "grpc_server_msg_received_total" && !renewal, name == "grpc_server_started_total" && renewal:
			to = &sum
		case name == "etcd_network_client_grpc_received_bytes_total":
			to = &c.Read
		case name == "etcd_network_client_grpc_sent_bytes_total":
			to = &c.Written
		default:
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return Counts{}, fmt.Errorf("count %s: %w", name, err)
		}
		if *to += n; to == &sum {
			c.Requests[method] = sum
		}
	}
	return c, lines.Err()
}

// Since is what was counted after before.
func (c Counts) Since(before Counts) Counts {
	d := Counts{Requests: map[string]float64{}, Read: c.Read - before.Read, Written: c.Written - before.Written}
	for method, n := range c.Requests {
		if n -= before.Requests[method]; n > 0 {
			d.Requests[method] = n
		}
	}
	return d
}

// Reads and Writes are the requests that cost a quorum, a write the members'
// disks too.
func (c Counts) Reads() float64 { return c.Requests["Range"] }
func (c Counts) Writes() float64 {
	sum := 0.0
	for _, method := range []string{"Txn", "Put", "DeleteRange", "LeaseGrant", "LeaseRevoke"} {
		sum += c.Requests[method]
	}
	return sum
}
