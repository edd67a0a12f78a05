// Package network gives tests machines: network namespaces, each with an
// address of its own, on a switch to which the test is connected too. Machines
// can be cut off from each other, by silence, by refusal, or by their cable.
//
// The namespaces belong to a user namespace of the test process's own
// (apart.go). So it needs no root, root's tests, which run as an ordinary user
// too, need nothing else, nothing of the system's network is seen or touched,
// and whatever is left over goes with the last process in it.
//
// Start with New.
package network

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"stolon/tests/servers"
)

// made counts the networks of this process; each has addresses of its own.
var made atomic.Int32

// A Network is a switch and the machines on it.
type Network struct {
	t      testing.TB
	number int
	hosts  []*Host
}

// A Host is one machine.
type Host struct {
	Name    string
	Address string

	net  *Network
	hold *exec.Cmd // keeps its namespace
	port string    // of the switch
}

// New makes a network, which ends with the test. Make it before what runs in it.
func New(t testing.TB) *Network {
	t.Helper()
	Need(t)
	n := &Network{t: t, number: int(made.Add(1))}
	n.run("ip", "link", "add", n.bridge(), "type", "bridge")
	t.Cleanup(func() { n.run("ip", "link", "delete", n.bridge()) })
	n.run("ip", "address", "add", n.address(1)+"/24", "dev", n.bridge())
	n.run("ip", "link", "set", n.bridge(), "up")
	return n
}

func (n *Network) bridge() string { return fmt.Sprintf("switch%d", n.number) }

func (n *Network) address(i int) string { return fmt.Sprintf("10.77.%d.%d", n.number, i) }

// Host is the machine of this name; it is made when it is asked for first.
func (n *Network) Host(name string) *Host {
	n.t.Helper()
	for _, h := range n.hosts {
		if h.Name == name {
			return h
		}
	}
	i := len(n.hosts)
	h := &Host{Name: name, Address: n.address(i + 2), net: n, port: fmt.Sprintf("port%d.%d", n.number, i)}
	h.start()
	n.run("ip", "link", "add", h.port, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(h.hold.Process.Pid))
	n.run("ip", "link", "set", h.port, "master", n.bridge(), "up")
	h.run("ip", "address", "add", h.Address+"/24", "dev", "eth0")
	h.run("ip", "link", "set", "eth0", "up")
	h.run("ip", "link", "set", "lo", "up")
	h.run("nft", "add table inet faults; add chain inet faults in { type filter hook input priority filter; }")
	n.hosts = append(n.hosts, h)
	return h
}

// Place is where on the network a process of this name runs: on a machine of
// its own.
func (n *Network) Place(name string) servers.Place { return n.Host(name).Place() }

// Place is the machine, for processes to start there. They have none of the
// privileges that the test has in its namespaces.
func (h *Host) Place() servers.Place {
	return servers.Place{Address: h.Address, Enter: append(h.enter(), "setpriv", "--ambient-caps=-all", "--inh-caps=-all")}
}

func (h *Host) enter() []string {
	return []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", h.hold.Process.Pid)}
}

// start makes the machine's namespace and the process that holds it.
func (h *Host) start() {
	h.net.t.Helper()
	h.hold = exec.Command("unshare", "--net", "cat")
	h.hold.Stderr = os.Stderr
	h.hold.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	in, err := h.hold.StdinPipe()
	if err != nil {
		h.net.t.Fatal(err)
	}
	out, err := h.hold.StdoutPipe()
	if err != nil {
		h.net.t.Fatal(err)
	}
	if err := h.hold.Start(); err != nil {
		h.net.t.Fatal(err)
	}
	h.net.t.Cleanup(func() {
		in.Close()
		_ = h.hold.Wait() // it has nothing to say
	})
	// Once cat answers it is in its namespace.
	if _, err := io.WriteString(in, "\n"); err != nil {
		h.net.t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		h.net.t.Fatalf("no network namespace for %s: %v; %s", h.Name, err, advice)
	}
}

// Cut lets nothing pass between two machines, without a word to either: what
// they send each other is lost.
func (n *Network) Cut(a, b *Host) {
	n.t.Helper()
	a.rule("ip saddr %s drop", b.Address)
	b.rule("ip saddr %s drop", a.Address)
}

// The ways of Reject, as nftables calls them. Either is "connection refused"
// to who connects.
const (
	Reset       = "tcp reset"
	Unreachable = "icmp port-unreachable"
)

// Reject refuses new connections from other machines to a port, as a firewall
// may. Established ones live.
func (h *Host) Reject(port, way string) {
	h.net.t.Helper()
	h.rule("iifname eth0 tcp dport %s tcp flags & (syn|ack) == syn reject with %s", port, way)
}

// Heal undoes all that Cut and Reject did.
func (n *Network) Heal() {
	n.t.Helper()
	for _, h := range n.hosts {
		h.run("nft", "flush chain inet faults in")
	}
}

// Unplug pulls the machine's cable out of the switch.
func (h *Host) Unplug() {
	h.net.t.Helper()
	h.net.run("ip", "link", "set", h.port, "down")
}

// Plug undoes Unplug.
func (h *Host) Plug() {
	h.net.t.Helper()
	h.net.run("ip", "link", "set", h.port, "up")
}

func (h *Host) rule(format string, args ...any) {
	h.net.t.Helper()
	h.run("nft", "add rule inet faults in "+fmt.Sprintf(format, args...))
}

// run runs a command on the machine.
func (h *Host) run(args ...string) {
	h.net.t.Helper()
	h.net.run(append(h.enter(), args...)...)
}

// run runs a command at the test's place on the network.
func (n *Network) run(args ...string) {
	n.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
}
