package cluster

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
)

// ParseSpec decodes a spec, naming the field that is wrong.
func ParseSpec(data []byte) (*Spec, error) {
	var s *Spec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, err
	}
	if s == nil {
		return nil, errors.New("the spec is null")
	}
	return s, nil
}

// Patch returns the spec with an RFC 7386 merge patch applied: objects merge,
// null deletes, everything else replaces. Keys may be spelled in any case, as
// when a spec is read.
func (s *Spec) Patch(patch []byte) (*Spec, error) {
	var tree any
	if err := json.Unmarshal(patch, &tree); err != nil {
		return nil, fmt.Errorf("failed to merge patch cluster spec: invalid JSON document: %w", err)
	}
	switch tree.(type) {
	case nil:
		return s, nil
	case map[string]any:
	default:
		return nil, errors.New("failed to merge patch cluster spec: invalid JSON document: not an object")
	}
	folded, err := json.Marshal(foldKeys(tree, reflect.TypeFor[Spec]()))
	if err != nil {
		return nil, fmt.Errorf("failed to merge patch cluster spec: %w", err)
	}
	before, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("failed to merge patch cluster spec: %w", err)
	}
	after, err := jsonpatch.MergePatch(before, folded)
	if err != nil {
		return nil, fmt.Errorf("failed to merge patch cluster spec: %w", err)
	}
	next, err := ParseSpec(after)
	if err != nil {
		return nil, fmt.Errorf("failed to unmarshal patched cluster spec: %w", err)
	}
	return next, nil
}

// foldKeys spells the keys of a JSON object as the fields of t do, so that a
// patch finds what it is for. Keys of maps are left alone.
func foldKeys(tree any, t reflect.Type) any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	object, ok := tree.(map[string]any)
	if !ok || t.Kind() != reflect.Struct {
		return tree
	}
	out := map[string]any{}
	for _, key := range SortedKeys(object) {
		name, value := key, object[key]
		for i := range t.NumField() {
			tag, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if tag != "" && strings.EqualFold(tag, key) {
				name, value = tag, foldKeys(value, t.Field(i).Type)
			}
		}
		out[name] = value
	}
	return out
}

// SetOnly returns the indented JSON of the fields that are set; unset ones and
// empty lists and maps are left out.
func (s *Spec) SetOnly() ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	// The order of the fields is the stored one, so it is edited as text.
	var out bytes.Buffer
	out.WriteByte('{')
	dec := json.NewDecoder(bytes.NewReader(b))
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	for first := true; dec.More(); {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		switch string(value) {
		case "null", "[]", "{}":
			continue
		}
		if !first {
			out.WriteByte(',')
		}
		first = false
		fmt.Fprintf(&out, "%q:%s", key, value)
	}
	out.WriteByte('}')
	var indented bytes.Buffer
	if err := json.Indent(&indented, out.Bytes(), "", "\t"); err != nil {
		return nil, err
	}
	return indented.Bytes(), nil
}
