// Package log makes the logger of the daemons: lines for a terminal or a
// journal, in the form that 0.17 has.
package log

import (
	"fmt"
	"io"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const stars = "********"

// Secret is a password or whatever else must not be read in a log. However it
// is printed or encoded, stars come out; string(s) is what it holds.
type Secret string

// String hides the secret.
func (Secret) String() string { return stars }

// Format hides the secret from every verb of package fmt.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, stars) }

// MarshalText hides the secret from encoders.
func (Secret) MarshalText() ([]byte, error) { return []byte(stars), nil }

// ParseLevel reads debug, info, warn or error.
func ParseLevel(s string) (zapcore.Level, error) {
	switch s {
	case "debug":
		return zap.DebugLevel, nil
	case "info":
		return zap.InfoLevel, nil
	case "warn":
		return zap.WarnLevel, nil
	case "error":
		return zap.ErrorLevel, nil
	}
	return 0, fmt.Errorf("invalid log level: %s; one of debug, info, warn, error", s)
}

// New returns a logger that writes to w: time in the local zone, level, place,
// message and a JSON object of the fields, separated by tabs.
func New(w io.Writer, level zapcore.Level, colour bool) *zap.Logger {
	c := zapcore.EncoderConfig{
		TimeKey: "ts", LevelKey: "level", CallerKey: "caller", MessageKey: "msg",
		LineEnding:     zapcore.DefaultLineEnding,
		EncodeTime:     zapcore.ISO8601TimeEncoder,
		EncodeLevel:    zapcore.CapitalLevelEncoder,
		EncodeCaller:   zapcore.ShortCallerEncoder,
		EncodeDuration: zapcore.StringDurationEncoder,
	}
	if colour {
		c.EncodeLevel = zapcore.CapitalColorLevelEncoder
	}
	core := zapcore.NewCore(zapcore.NewConsoleEncoder(c), zapcore.Lock(zapcore.AddSync(w)), level)
	return zap.New(core, zap.AddCaller())
}
