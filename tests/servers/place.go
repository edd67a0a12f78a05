package servers

import "os/exec"

// A Place is where a process runs.
type Place struct {
	// Address is the IP address that it listens on and is reached at.
	Address string
	// Enter is the command that runs another one there.
	Enter []string
}

// Here is the test's own place, of whose addresses loopback is used.
var Here = Place{Address: "127.0.0.1"}

// Command is a command that runs at the place, as the process that it starts.
func (p Place) Command(program string, args ...string) *exec.Cmd {
	if len(p.Enter) == 0 {
		return exec.Command(program, args...)
	}
	return exec.Command(p.Enter[0], append(append(p.Enter[1:len(p.Enter):len(p.Enter)], program), args...)...)
}
