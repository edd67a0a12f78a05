package archtest

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"stolon/internal/cluster"
)

func TestLinksOfTheDocumentationLeadSomewhere(t *testing.T) {
	pages, err := filepath.Glob("../../doc/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatalf("only %d pages: %v", len(pages), err)
	}
	commands, err := filepath.Glob("../../doc/commands/*.md")
	if err != nil || len(commands) < 10 {
		t.Fatalf("only %d pages of commands: %v", len(commands), err)
	}
	pages = append(pages, commands...)
	link := regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
	for _, page := range append(pages, "../../README.md", "../../CONTRIBUTING.md", "../../CHANGELOG.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(b), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
	}
}

// TestEverySettingIsDocumented compares doc/cluster_spec.md with the defaults.
func TestEverySettingIsDocumented(t *testing.T) {
	b, err := os.ReadFile("../../doc/cluster_spec.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{} // default by name
	name := regexp.MustCompile("`([a-zA-Z]+)`")
	for _, line := range strings.Split(string(b), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for _, m := range name.FindAllStringSubmatch(cells[1], -1) {
			documented[m[1]] = strings.Trim(cells[2], " `")
		}
	}
	settings := reflect.ValueOf((*cluster.Spec)(nil).Settings())
	for i := range settings.NumField() {
		name, _, _ := strings.Cut(settings.Type().Field(i).Tag.Get("json"), ",")
		got, ok := documented[name]
		delete(documented, name)
		if !ok {
			t.Errorf("%s is not documented", name)
			continue
		}
		value := settings.Field(i)
		switch value.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Slice: // unset by default
			continue
		}
		want := fmt.Sprint(value.Interface())
		if want == (cluster.Duration{}).String() {
			want = "0"
		}
		if d, err := time.ParseDuration(got); err == nil && want != "0" {
			got = d.String()
		}
		if got != want {
			t.Errorf("the default of %s is %s, documented as %s", name, want, got)
		}
	}
	for name := range documented {
		t.Errorf("%s is documented but no setting", name)
	}
}
