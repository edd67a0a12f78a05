package log_test

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/zap"

	"stolon/internal/log"
)

func TestLinesHaveTheFormOf017(t *testing.T) {
	var out bytes.Buffer
	l := log.New(&out, zap.InfoLevel, false)
	l.Debug("not seen")
	l.Info("hello", zap.String("keeper", "k1"), zap.Int("generation", 3))
	l.Error("oops", zap.Error(errors.New("why")))
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	place := `\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d{4})`
	wants := []string{
		`^` + place + `\tINFO\tlog/log_test\.go:\d+\thello\t\{"keeper": "k1", "generation": 3\}$`,
		`^` + place + `\tERROR\tlog/log_test\.go:\d+\toops\t\{"error": "why"\}$`,
	}
	if len(lines) != len(wants) {
		t.Fatalf("logged %q, want %d lines", lines, len(wants))
	}
	for i, want := range wants {
		if !regexp.MustCompile(want).MatchString(lines[i]) {
			t.Errorf("line %q, want %s", lines[i], want)
		}
	}
}

func TestColour(t *testing.T) {
	for _, colour := range []bool{false, true} {
		var out bytes.Buffer
		log.New(&out, zap.InfoLevel, colour).Warn("x")
		if got := strings.Contains(out.String(), "\x1b["); got != colour {
			t.Errorf("New(colour %t) logged %q", colour, out.String())
		}
	}
}

func TestSecretsPrintAsStars(t *testing.T) {
	const secret = log.Secret("hunter2")
	type login struct{ Password log.Secret }
	var out bytes.Buffer
	log.New(&out, zap.InfoLevel, false).Info("x", zap.Any("a", secret), zap.Stringer("b", secret), zap.Any("c", login{secret}), zap.Any("d", map[string]log.Secret{"p": secret}))
	for _, verb := range []string{"%s", "%v", "%+v", "%#v", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+"\n", secret, login{secret}, []log.Secret{secret})
	}
	if s := out.String(); strings.Contains(s, "hunter2") || strings.Contains(s, "68756e74657232") || !strings.Contains(s, "****") {
		t.Errorf("a secret shows: %s", s)
	}
	if string(secret) != "hunter2" {
		t.Error("the secret is lost")
	}
}

func TestParseLevel(t *testing.T) {
	for _, s := range []string{"debug", "info", "warn", "error"} {
		if l, err := log.ParseLevel(s); err != nil || l.String() != s {
			t.Errorf("ParseLevel(%s) = %v, %v", s, l, err)
		}
	}
	for _, s := range []string{"", "INFO", "fatal"} {
		if _, err := log.ParseLevel(s); err == nil || !strings.Contains(err.Error(), "invalid log level: "+s) {
			t.Errorf("ParseLevel(%q): error %v", s, err)
		}
	}
}
