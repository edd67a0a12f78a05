package flagutil

import "go.uber.org/zap/zapcore"

// noExit lets a fatal line be logged by code that returns its exit code.
type noExit struct{}

func (noExit) OnWrite(*zapcore.CheckedEntry, []zapcore.Field) {}
