package network

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// mark is the variable by which a process knows that it has namespaces of its
// own ("yes"), or why it could not get them.
const mark = "STOLON_TEST_APART"

const advice = `these tests make networks and mount file systems of their own, in namespaces. ` +
	`Run ./test as root, or let users have them: sysctl -w user.max_user_namespaces=10000 and, where there are such settings, ` +
	`kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_userns=0. A container has to be run with --privileged`

// Settled reports whether Isolate was called for this process.
func Settled() bool { return os.Getenv(mark) != "" }

// Isolate lets a command that has not started yet run as this user in a user, a
// network and a mount namespace of its own, with the privilege to make more of
// these. Where the system does not allow that, the command runs without and
// New fails.
//
// The user keeps its number: PostgreSQL refuses to run as what looks like root.
func Isolate(cmd *exec.Cmd, uid, gid int) {
	// Tried before: a command can be started once only.
	trial := exec.Command("unshare", "--net", "true")
	isolate(trial, uid, gid)
	why := "yes"
	if out, err := trial.CombinedOutput(); err != nil {
		why = fmt.Sprintf("%v %s", err, out)
	} else {
		isolate(cmd, uid, gid)
	}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	// ip and nft are where an ordinary user does not look.
	cmd.Env = append(cmd.Env, mark+"="+why, "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
}

func isolate(cmd *exec.Cmd, uid, gid int) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	a := cmd.SysProcAttr
	a.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNET | unix.CLONE_NEWNS
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	a.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}
	if os.Geteuid() == 0 {
		a.GidMappingsEnableSetgroups = true // to leave root's groups
		a.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
}

// Need makes the namespaces ready for a test, or fails it where there are none.
func Need(t testing.TB) {
	t.Helper()
	if err := apart(); err != nil {
		t.Fatal(err)
	}
	// It is down in a new namespace.
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("cannot set up the loopback interface: %v %s; %s", err, out, advice)
	}
}

// apart tells why this process is not in namespaces of its own.
func apart() error {
	switch why := os.Getenv(mark); why {
	case "yes":
		return nil
	case "":
		return errors.New("network: the tests' main function has to be harness.Apart")
	default:
		return fmt.Errorf("no namespaces (%s): %s", why, advice)
	}
}
