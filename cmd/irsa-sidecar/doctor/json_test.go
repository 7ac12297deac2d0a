package doctor

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The schema is documented: what a program reads must not change without a new number.
func TestTheReportAsJSON(t *testing.T) {
	w := newWorld(t)
	w.give(w.trust("shop:cart", "shop:crat"))
	var b bytes.Buffer
	if err := w.settled(w.examine()).WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	compare(t, "report.json", b.String())
	var read Report
	if err := json.Unmarshal(b.Bytes(), &read); err != nil {
		t.Fatal(err)
	}
	before := *read.Cause
	read.Conclude()
	if read.Result != Fail || *read.Cause != before {
		t.Errorf("read back, the result is %v, and the cause is %+v and not %+v", read.Result, *read.Cause, before)
	}
}

func TestStatusIsReadBack(t *testing.T) {
	for _, status := range []Status{OK, Warn, Fail} {
		text, err := status.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Status
		if err := got.UnmarshalText(text); err != nil || got != status {
			t.Errorf("%s is read as %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "OK", "failed"} {
		var status Status
		if err := status.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q is read as %v", bad, status)
		}
	}
}

// docs/doctor.md has every field of the report, and no other.
func TestEveryFieldIsDocumented(t *testing.T) {
	raw, err := os.ReadFile("../../../docs/doctor.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(raw), "\n## JSON\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z.\\[\\]]+)` \\|").FindAllStringSubmatch(section, -1) {
		documented = append(documented, m[1])
	}
	fields := fieldsOf(reflect.TypeFor[Report](), "")
	slices.Sort(fields)
	slices.Sort(documented)
	if !slices.Equal(fields, documented) {
		t.Errorf("the fields are %q, and documented are %q", fields, documented)
	}
}

// fieldsOf returns the fields of a struct and of those in it, as they are called in JSON.
func fieldsOf(t reflect.Type, prefix string) (fields []string) {
	for field := range fieldsIn(t) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" {
			continue
		}
		path := prefix + name
		inner := field.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Slice && inner.Elem().Kind() != reflect.Uint8 {
			path, inner = path+"[]", inner.Elem()
		}
		fields = append(fields, path)
		if inner.Kind() == reflect.Struct {
			fields = append(fields, fieldsOf(inner, path+".")...)
		}
	}
	return fields
}

func fieldsIn(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}
