//go:build integration

// Package faults tests the programs, as package integration does, under faults
// that only a kernel can make: networks that are cut (package network), and
// file systems that are full.
//
// It runs in namespaces of its own; "./test integration" runs it too.
package faults

import (
	"os"
	"testing"
	"time"

	"stolon/tests/harness"
)

// soon is how long a change may take.
const soon = 30 * time.Second

func TestMain(m *testing.M) { os.Exit(harness.Apart(m.Run)) }
