//go:build integration

package integration

import (
	"flag"
	"os"
	"testing"

	"stolon/tests/harness"
)

// atOnce is how many tests run at a time, unless -parallel says otherwise.
// They wait more than they work.
const atOnce = "6"

// TestMain makes "go test" work for root too: then the tests run in a process
// of an ordinary user's.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", atOnce); err != nil {
			panic("integration: " + err.Error())
		}
	}
	os.Exit(harness.Ordinary(m.Run))
}
