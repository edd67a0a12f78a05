package cluster_test

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"stolon/internal/cluster"
)

// stored is the form without what is always there although unset.
func stored(t *testing.T, s *cluster.Spec) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	out := string(b)
	for _, unset := range []string{`"additionalWalSenders":null`, `"additionalMasterReplicationSlots":null`, `"pgHBA":null`, `"automaticPgRestart":null`} {
		out = strings.Replace(out, unset, "", 1)
	}
	for strings.Contains(out, ",,") {
		out = strings.Replace(out, ",,", ",", 1)
	}
	return strings.NewReplacer("{,", "{", ",}", "}").Replace(out)
}

func TestPatch(t *testing.T) {
	tests := []struct{ name, spec, patch, want string }{
		{"a scalar is set", `{"initMode":"new"}`, `{"maxStandbys":3}`, `{"maxStandbys":3,"initMode":"new"}`},
		{"a scalar is replaced", `{"sleepInterval":"5s"}`, `{"sleepInterval":"1m"}`, `{"sleepInterval":"1m0s"}`},
		{"null unsets", `{"sleepInterval":"5s","initMode":"new"}`, `{"sleepInterval":null}`, `{"initMode":"new"}`},
		{"maps merge", `{"pgParameters":{"a":"1","b":"2"}}`, `{"pgParameters":{"a":null,"c":"3"}}`, `{"pgParameters":{"b":"2","c":"3"}}`},
		{"a null map is emptied", `{"pgParameters":{"a":"1"}}`, `{"pgParameters":null}`, `{}`},
		{"parameter names keep their case", `{"pgParameters":{"a":"1"}}`, `{"pgParameters":{"A":"2"}}`, `{"pgParameters":{"A":"2","a":"1"}}`},
		{"lists are replaced", `{"pgHBA":["a","b"]}`, `{"pgHBA":["c"]}`, `{"pgHBA":["c"]}`},
		{"a null list is unset", `{"pgHBA":["a"]}`, `{"pgHBA":null}`, `{}`},
		{"an empty list is kept empty", `{"pgHBA":["a"]}`, `{"pgHBA":[]}`, `{"pgHBA":[]}`},
		{"an unset list can become empty", `{}`, `{"pgHBA":[]}`, `{"pgHBA":[]}`},
		{"a list stays empty", `{"pgHBA":[]}`, `{"maxStandbys":3}`, `{"maxStandbys":3,"pgHBA":[]}`},
		{"an object is made", `{}`, `{"standbyConfig":{"standbySettings":{"primaryConninfo":"x"}}}`, `{"standbyConfig":{"standbySettings":{"primaryConninfo":"x"}}}`},
		{"objects merge", `{"newConfig":{"locale":"C","encoding":"UTF8"}}`, `{"newConfig":{"locale":null,"dataChecksums":true}}`, `{"newConfig":{"encoding":"UTF8","dataChecksums":true}}`},
		{"a key in another case replaces", `{"maxStandbys":3}`, `{"MaxStandbys":4}`, `{"maxStandbys":4}`},
		{"a key in another case unsets", `{"maxStandbys":3}`, `{"MAXSTANDBYS":null}`, `{}`},
		{"a nested key in another case replaces", `{"standbyConfig":{"standbySettings":{"primaryConninfo":"x"}}}`, `{"standbyConfig":{"standbySettings":{"primaryConnInfo":"y"}}}`, `{"standbyConfig":{"standbySettings":{"primaryConninfo":"y"}}}`},
		{"null changes nothing", `{"initMode":"new"}`, `null`, `{"initMode":"new"}`},
		{"an empty patch changes nothing", `{"initMode":"new","pgHBA":[]}`, `{}`, `{"initMode":"new","pgHBA":[]}`},
		{"an unknown field is ignored", `{"initMode":"new"}`, `{"later":1}`, `{"initMode":"new"}`},
		{"the bare number 0 is a duration", `{}`, `{"syncTimeout":0}`, `{"syncTimeout":"0s"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			old := parse(t, tt.spec)
			before := stored(t, old)
			got, err := old.Patch([]byte(tt.patch))
			if err != nil {
				t.Fatalf("Patch(%s, %s): %v", tt.spec, tt.patch, err)
			}
			if s := stored(t, got); s != tt.want {
				t.Errorf("Patch(%s, %s) = %s, want %s", tt.spec, tt.patch, s, tt.want)
			}
			if after := stored(t, old); after != before {
				t.Errorf("Patch changed its spec from %s to %s", before, after)
			}
		})
	}
}

func TestBadPatchesAndSpecsNameWhatIsWrong(t *testing.T) {
	patches := []struct{ patch, want string }{
		{``, "failed to merge patch cluster spec: invalid JSON document"},
		{`{`, "failed to merge patch cluster spec: invalid JSON document"},
		{`[]`, "failed to merge patch cluster spec: invalid JSON document: not an object"},
		{`1`, "failed to merge patch cluster spec: invalid JSON document: not an object"},
		{`{"maxStandbys":"3"}`, "failed to unmarshal patched cluster spec: json: cannot unmarshal string into Go struct field Spec.maxStandbys"},
		{`{"MaxStandbys":70000}`, "Spec.maxStandbys"},
		{`{"pgParameters":{"a":1}}`, "Spec.pgParameters"},
		{`{"SleepInterval":5}`, `failed to unmarshal patched cluster spec: sleepInterval: duration: time: missing unit in duration "5"`},
	}
	for _, tt := range patches {
		if _, err := parse(t, `{"initMode":"new"}`).Patch([]byte(tt.patch)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Patch(%s): error %v, want %q", tt.patch, err, tt.want)
		}
	}
	specs := []struct{ spec, want string }{
		{``, "unexpected end of JSON input"},
		{`null`, "the spec is null"},
		{`[]`, "cannot unmarshal array"},
		{`{"failInterval":"20"}`, `failInterval: duration: time: missing unit in duration "20"`},
		{`{"maxStandbyLag":4294967296}`, "Spec.maxStandbyLag"},
		{`{"maxStandbys":-1}`, "Spec.maxStandbys"},
		{`{"synchronousReplication":"yes"}`, "Spec.synchronousReplication"},
	}
	for _, tt := range specs {
		if _, err := cluster.ParseSpec([]byte(tt.spec)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("ParseSpec(%s): error %v, want %q", tt.spec, err, tt.want)
		}
	}
}

func TestUnknownFields(t *testing.T) {
	got := cluster.UnknownFields([]byte(`{"initmode":"new","sleepIntervall":"1s","newConfig":{"local":"C","locale":"C"},"pgParameters":{"any":"1"},"standbyConfig":{"standbySettings":{"x":1}}}`))
	if want := []string{"newConfig.local", "sleepIntervall", "standbyConfig.standbySettings.x"}; !slices.Equal(got, want) {
		t.Errorf("UnknownFields = %q, want %q", got, want)
	}
	for _, none := range []string{``, `null`, `[]`, `{}`, `{"newConfig":null,"pitrConfig":1}`} {
		if got := cluster.UnknownFields([]byte(none)); len(got) != 0 {
			t.Errorf("UnknownFields(%s) = %q, want none", none, got)
		}
	}
}

// What 0.17 printed of real clusters comes out of the same specs.
func TestPrintedSpecsAreThoseOf017(t *testing.T) {
	for _, name := range []string{"async", "sync"} {
		t.Run(name, func(t *testing.T) {
			short, full := file(t, name+".spec.json"), file(t, name+".spec-defaults.json")
			spec := parse(t, string(short))
			got, err := spec.SetOnly()
			if err != nil {
				t.Fatal(err)
			}
			if string(got)+"\n" != string(short) {
				t.Errorf("SetOnly = %s\nwant %s", got, short)
			}
			got, err = json.MarshalIndent(spec.Settings(), "", "\t")
			if err != nil {
				t.Fatal(err)
			}
			if string(got)+"\n" != string(full) {
				t.Errorf("Settings = %s\nwant %s", got, full)
			}
		})
	}
}

func TestUnsetFieldsAreNotPrinted(t *testing.T) {
	got, err := parse(t, `{"pgHBA":[],"pgParameters":{},"additionalMasterReplicationSlots":null,"newConfig":{},"automaticPgRestart":false}`).SetOnly()
	if want := "{\n\t\"newConfig\": {},\n\t\"automaticPgRestart\": false\n}"; err != nil || string(got) != want {
		t.Errorf("SetOnly = %s, %v, want %s", got, err, want)
	}
	got, err = (&cluster.Spec{}).SetOnly()
	if err != nil || string(got) != "{}" {
		t.Errorf("SetOnly of an empty spec = %s, %v", got, err)
	}
}

func file(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var specSeeds = []string{
	`null`, `{}`, `[]`, `{"initMode":"new"}`, `{"InitMode":"new","initmode":null}`, `{"sleepInterval":0,"failInterval":"1h"}`,
	`{"pgHBA":[],"pgParameters":{"a":"1","A":"2"}}`, `{"pgHBA":[null],"additionalMasterReplicationSlots":["a"]}`,
	`{"standbyConfig":{"standbySettings":{"primaryConnInfo":"x"}},"maxStandbys":65535}`,
}

func FuzzParseSpec(f *testing.F) {
	for _, s := range specSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		cluster.UnknownFields(data)
		s, err := cluster.ParseSpec(data)
		if err != nil {
			return
		}
		_ = s.Validate()
		if _, err := s.SetOnly(); err != nil {
			t.Errorf("SetOnly: %v", err)
		}
		once, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		again, err := cluster.ParseSpec(once)
		if err != nil {
			t.Fatalf("what was stored can't be read: %v\n%s", err, once)
		}
		if twice, _ := json.Marshal(again); !bytes.Equal(once, twice) {
			t.Errorf("stored\n%s\nthen\n%s", once, twice)
		}
	})
}

func FuzzPatch(f *testing.F) {
	for _, s := range specSeeds {
		for _, p := range specSeeds {
			f.Add([]byte(s), []byte(p))
		}
	}
	f.Fuzz(func(t *testing.T, spec, patch []byte) {
		s, err := cluster.ParseSpec(spec)
		if err != nil {
			return
		}
		once, err := s.Patch(patch)
		if err != nil {
			return
		}
		// A merge patch says what shall be: doing it again changes nothing.
		twice, err := once.Patch(patch)
		if err != nil {
			t.Fatalf("the patch works once only: %v", err)
		}
		a, _ := json.Marshal(once)
		if b, _ := json.Marshal(twice); !bytes.Equal(a, b) {
			t.Errorf("patched once\n%s\ntwice\n%s", a, b)
		}
	})
}
