package wal

import (
	"fmt"
	"regexp"
)

var segmentName = regexp.MustCompile(`^[0-9A-F]{24}$`)

// IsSegmentName reports whether name is that of a WAL segment file: 24
// upper-case hexadecimal digits.
func IsSegmentName(name string) bool {
	return len(name) == 24 && segmentName.MatchString(name)
}

// WithoutTimeline returns what a segment's name tells of its position; names
// of different timelines compare by it. It is "" for any other name.
func WithoutTimeline(name string) string {
	if !IsSegmentName(name) {
		return ""
	}
	return name[8:]
}

// SegmentName names the segment of the timeline that holds the byte at pos.
// segmentSize is a power of two from 1 MiB to 1 GiB, as initdb demands.
func SegmentName(timeline uint64, pos LSN, segmentSize uint64) string {
	segment := uint64(pos) / segmentSize
	perID := (uint64(1) << 32) / segmentSize
	return fmt.Sprintf("%08X%08X%08X", uint32(timeline), uint32(segment/perID), uint32(segment%perID))
}

// ParseSegmentName reads a segment's timeline and first byte.
func ParseSegmentName(name string, segmentSize uint64) (timeline uint64, start LSN, err error) {
	if !IsSegmentName(name) {
		return 0, 0, fmt.Errorf("%q is not the name of a WAL segment", name)
	}
	timeline, _ = parseHex32(name[:8])
	id, _ := parseHex32(name[8:16])
	n, _ := parseHex32(name[16:])
	if n >= (uint64(1)<<32)/segmentSize {
		return 0, 0, fmt.Errorf("WAL segment %q is not one of %d bytes", name, segmentSize)
	}
	return timeline, LSN(id<<32 | n*segmentSize), nil
}
