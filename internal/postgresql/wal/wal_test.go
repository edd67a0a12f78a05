package wal

import (
	"reflect"
	"testing"
)

func TestLSNReadsPostgreSQLsFormOnly(t *testing.T) {
	for s, want := range map[string]LSN{
		"0/0": 0, "16/B374D848": 0x16B374D848, "FFFFFFFF/ffffffff": 1<<64 - 1, "0/5000090": 83886224,
	} {
		if got, err := ParseLSN(s); err != nil || got != want {
			t.Errorf("ParseLSN(%q) = %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "/", "0", "0/", "/0", "0/0/0", "+1/0", " 0/0", "0/0 ", "0x1/0", "1_0/0", "100000000/0", "g/0"} {
		if got, err := ParseLSN(s); err == nil {
			t.Errorf("ParseLSN(%q) = %v, want an error", s, got)
		}
	}
}

func FuzzLSN(f *testing.F) {
	f.Add("16/B374D848")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLSN(s)
		if err != nil {
			return
		}
		if again, err := ParseLSN(l.String()); err != nil || again != l {
			t.Errorf("ParseLSN(%q) = %v, %v, want %v", l.String(), again, err, l)
		}
	})
}

func TestSegmentNamesFollowTheSegmentSize(t *testing.T) {
	tests := []struct {
		timeline uint64
		pos      LSN
		size     uint64
		want     string
	}{
		{1, 0x1000000, 16 << 20, "000000010000000000000001"},
		{2, 0x1FFFFFF, 16 << 20, "000000020000000000000001"},
		{1, 0x1FF000000, 16 << 20, "0000000100000001000000FF"},
		{1, 0x1FF000000, 64 << 20, "00000001000000010000003F"},
		{1, 0x1FF000000, 1 << 30, "000000010000000100000003"},
		{1, 0x1FF000000, 1 << 20, "000000010000000100000FF0"},
		{17, 0x5000000, 1 << 20, "000000110000000000000050"},
	}
	for _, tt := range tests {
		got := SegmentName(tt.timeline, tt.pos, tt.size)
		if got != tt.want {
			t.Errorf("SegmentName(%d, %v, %d) = %q, want %q", tt.timeline, tt.pos, tt.size, got, tt.want)
		}
		timeline, start, err := ParseSegmentName(got, tt.size)
		if err != nil || timeline != tt.timeline || start > tt.pos || uint64(tt.pos-start) >= tt.size {
			t.Errorf("ParseSegmentName(%q, %d) = %d, %v, %v", got, tt.size, timeline, start, err)
		}
	}
	if _, _, err := ParseSegmentName("0000000100000001000000FF", 64<<20); err == nil {
		t.Error("ParseSegmentName takes a segment number beyond the segment size's last")
	}
}

func TestSegmentNameIs24UpperCaseHexDigits(t *testing.T) {
	for name, want := range map[string]bool{
		"000000010000000000000001":         true,
		"0000000100000000000000AF":         true,
		"0000000100000000000000af":         false,
		"00000001000000000000000":          false,
		"0000000100000000000000011":        false,
		"000000010000000000000001.partial": false,
		"00000002.history":                 false,
		"00000001000000000000000G":         false,
		"000000010000000000000001\n":       false,
	} {
		if got := IsSegmentName(name); got != want {
			t.Errorf("IsSegmentName(%q) = %t, want %t", name, got, want)
		}
	}
	if got := WithoutTimeline("0000000A0000000B0000000C"); got != "0000000B0000000C" {
		t.Errorf("WithoutTimeline = %q", got)
	}
}

func TestParseHistory(t *testing.T) {
	tests := []struct {
		name, text string
		want       []HistoryEntry
		wantErr    bool
	}{
		{"empty", "", nil, false},
		{"one line", "1\t0/5000090\tno recovery target specified", []HistoryEntry{{1, 83886224, "no recovery target specified"}}, false},
		{"blank lines and comments", "# c\n\n1\t0/50\tone\n\n3\t0/60\ttwo words\n", []HistoryEntry{{1, 0x50, "one"}, {3, 0x60, "two words"}}, false},
		{"no reason", "1\t0/50\n", []HistoryEntry{{1, 0x50, ""}}, false},
		{"broken position", "1\t050\tx", nil, true},
		{"broken timeline", "a\t0/50\tx", nil, true},
		{"timelines must rise", "2\t0/50\tx\n2\t0/60\tx\n", nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseHistory(tt.text)
			if (err != nil) != tt.wantErr || !reflect.DeepEqual(got, tt.want) {
				t.Errorf("ParseHistory(%q) = %v, %v, want %v", tt.text, got, err, tt.want)
			}
		})
	}
}

func FuzzParseHistory(f *testing.F) {
	f.Add("1\t0/5000090\tno recovery target specified\n2\t0/6000000\tx\n")
	f.Fuzz(func(t *testing.T, text string) {
		entries, err := ParseHistory(text)
		if err != nil {
			return
		}
		for i := 1; i < len(entries); i++ {
			if entries[i].Timeline <= entries[i-1].Timeline {
				t.Errorf("ParseHistory(%q): timelines don't rise: %v", text, entries)
			}
		}
	})
}

func TestLastKeepsOrder(t *testing.T) {
	h := []HistoryEntry{{Timeline: 1}, {Timeline: 2}, {Timeline: 3}}
	if got := Last(h, 2); len(got) != 2 || got[0].Timeline != 2 {
		t.Errorf("Last(h, 2) = %v", got)
	}
	if got := Last(h[:1], 2); len(got) != 1 {
		t.Errorf("Last of one entry = %v", got)
	}
	if got := Last(nil, 2); len(got) != 0 {
		t.Errorf("Last(nil, 2) = %v", got)
	}
}

func TestDiverged(t *testing.T) {
	at := func(timeline uint64, pos LSN, history ...HistoryEntry) Branch {
		return Branch{Timeline: timeline, Position: pos, History: history}
	}
	left := func(timeline uint64, pos LSN) HistoryEntry { return HistoryEntry{Timeline: timeline, SwitchPoint: pos} }
	tests := []struct {
		name          string
		followed, own Branch
		want          bool
	}{
		{"followed is on an older timeline", at(1, 100), at(2, 50, left(1, 40)), true},
		{"both on timeline 1", at(1, 100), at(1, 200), false},
		{"same timeline, left the former at the same point", at(2, 100, left(1, 40)), at(2, 100, left(1, 40)), false},
		{"same timeline, left the former at different points", at(2, 100, left(1, 40)), at(2, 100, left(1, 41)), true},
		{"same timeline, own history unknown", at(2, 100, left(1, 40)), at(2, 100), false},
		{"same timeline, followed's history unknown", at(2, 100), at(2, 100, left(1, 40)), false},
		{"own is before the fork", at(2, 100, left(1, 40)), at(1, 39), false},
		{"own is at the fork", at(2, 100, left(1, 40)), at(1, 40), false},
		{"own is past the fork", at(2, 100, left(1, 40)), at(1, 41), true},
		{"own is past the fork, two timelines ago", at(3, 100, left(1, 40), left(2, 60)), at(1, 41), true},
		{"own's timeline was skipped in the followed history", at(3, 100, left(1, 40)), at(2, 70, left(1, 40)), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := Diverged(tt.followed, tt.own); got != tt.want {
				t.Errorf("Diverged(%v, %v) = %t, want %t", tt.followed, tt.own, got, tt.want)
			}
		})
	}
}
