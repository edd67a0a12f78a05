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

// ParseSpec decodes a spec, naming the field that is wrong. As 0.17 it ignores
// fields that it doesn't know; UnknownFields lists them.
func ParseSpec(data []byte) (*Spec, error) {
	var s *Spec
	if err := json.Unmarshal(data, &s); err != nil {
		if field := wrongDuration(data); field != "" {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		return nil, err
	}
	if s == nil {
		return nil, errors.New("the spec is null")
	}
	return s, nil
}

// wrongDuration names the field of a spec that is no duration, "" when there
// is none: encoding/json doesn't say where a type with a decoder of its own
// failed.
func wrongDuration(data []byte) string {
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) != nil {
		return ""
	}
	for _, key := range SortedKeys(fields) {
		f, ok := fieldNamed(reflect.TypeFor[Spec](), key)
		if ok && f.Type == reflect.TypeFor[*Duration]() && json.Unmarshal(fields[key], new(Duration)) != nil {
			return f.name
		}
	}
	return ""
}

// UnknownFields lists the fields of a spec or a patch that no field of Spec
// stands for, such as misspelled ones, by their path.
func UnknownFields(data []byte) []string {
	var tree any
	if json.Unmarshal(data, &tree) != nil {
		return nil
	}
	return unknownFields(tree, reflect.TypeFor[Spec](), "")
}

func unknownFields(tree any, t reflect.Type, path string) []string {
	object, ok := tree.(map[string]any)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if !ok || t.Kind() != reflect.Struct {
		return nil
	}
	var unknown []string
	for _, key := range SortedKeys(object) {
		if f, ok := fieldNamed(t, key); ok {
			unknown = append(unknown, unknownFields(object[key], f.Type, path+f.name+".")...)
		} else {
			unknown = append(unknown, path+key)
		}
	}
	return unknown
}

type jsonField struct {
	reflect.StructField
	name string // in JSON
}

// fieldNamed finds the field of a struct as encoding/json does, in any case.
func fieldNamed(t reflect.Type, key string) (jsonField, bool) {
	for i := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if name != "" && strings.EqualFold(name, key) {
			return jsonField{t.Field(i), name}, true
		}
	}
	return jsonField{}, false
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
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	object, ok := tree.(map[string]any)
	if !ok || t.Kind() != reflect.Struct {
		return tree
	}
	out := map[string]any{}
	for _, key := range SortedKeys(object) {
		if f, ok := fieldNamed(t, key); ok {
			out[f.name] = foldKeys(object[key], f.Type)
		} else {
			out[key] = object[key]
		}
	}
	return out
}

// SetOnly returns the indented JSON of the fields that are set; unset ones and
// empty lists and maps are left out. It is what "stolonctl spec" prints.
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
		if string(value) == "null" || string(value) == "[]" {
			continue // an empty map isn't there at all
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
