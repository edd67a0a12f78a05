package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"stolon/internal/cluster"
)

// readInput reads a file, "-" being standard input.
func (c *ctl) readInput(name string) ([]byte, error) {
	if name == "-" {
		b, err := io.ReadAll(c.stdin)
		if err != nil {
			return nil, fmt.Errorf("cannot read from stdin: %w", err)
		}
		return b, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read file: %w", err)
	}
	return b, nil
}

// tellUnknown warns of fields that are ignored, which are mostly misspelled.
func (c *ctl) tellUnknown(spec []byte) {
	for _, field := range cluster.UnknownFields(spec) {
		fmt.Fprintf(c.stderr, "WARNING: the cluster spec has no field %q; it is ignored\n", field)
	}
}

// confirm asks until the answer is yes or no.
func (c *ctl) confirm() (bool, error) {
	in := bufio.NewReader(c.stdin)
	for {
		fmt.Fprint(c.stdout, "Are you sure you want to continue? [yes/no] ")
		line, err := in.ReadString('\n')
		if err != nil {
			return false, fmt.Errorf("error reading input: %w", err)
		}
		switch line {
		case "yes\n":
			return true, nil
		case "no\n":
			fmt.Fprintln(c.stdout, "exiting")
			return false, nil
		}
		fmt.Fprintln(c.stdout, "Please enter 'yes' or 'no'")
	}
}

func tooMany(args []string, most int) error {
	if len(args) > most {
		return errors.New("too many arguments")
	}
	return nil
}
