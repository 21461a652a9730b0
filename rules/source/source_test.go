package source

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"gopkg.in/yaml.v3"
)

type pet struct {
	Name  string            `yaml:"name"`
	Age   int               `yaml:"age"`
	Every model.Duration    `yaml:"every"`
	Tags  map[string]string `yaml:"tags"`
	Share float64           `yaml:"share"`
	Shy   *bool             `yaml:"shy"`
}

type home struct {
	Pets []pet  `yaml:"pets"`
	Expr string `yaml:"expr"`
}

func decodeHome(t *testing.T, text string, more func(*Decoder)) (home, error) {
	t.Helper()
	f, err := Parse("home.yml", []byte(text))
	if err != nil {
		return home{}, err
	}
	d := f.Decoder()
	var h home
	d.Decode(&h)
	if more != nil {
		more(d)
	}
	return h, d.Err()
}

func TestDecode(t *testing.T) {
	yes := true
	want := home{Pets: []pet{
		{Name: "rex", Age: 3, Every: model.Duration(90e9), Tags: map[string]string{"a": "1"}, Share: 0.5, Shy: &yes},
		{Name: "tom", Age: 3, Every: model.Duration(90e9), Tags: map[string]string{"a": "1"}, Share: 2},
	}}
	got, err := decodeHome(t, `
pets:
- &rex {name: rex, age: 3, every: 1m30s, tags: &tags {a: "1"}, share: 0.5, shy: true}
- name: tom
  age: 3
  every: 1m30s
  tags: *tags
  share: 2
expr:
`, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeMerge(t *testing.T) {
	got, err := decodeHome(t, "pets:\n- &base {name: rex, age: 3}\n- {<<: *base, name: tom}\n", nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]pet{{Name: "rex", Age: 3}, {Name: "tom", Age: 3}}, got.Pets); diff != "" {
		t.Error(diff)
	}
}

func TestFaults(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		more       func(*Decoder)
		want       string
	}{
		{name: "all at once, in order", text: "pets:\n- nmae: rex\n  age: old\n  age: 4\n- {name: tom, zzzzzzz: 1}\nexpr: []\n", want: `
home.yml:2:3: unknown key "nmae" (did you mean "name"?)
    2 | - nmae: rex
      |   ^
home.yml:3:8: pets[0].age: "old" is not a whole number
    3 |   age: old
      |        ^
home.yml:4:3: key "age" is given twice, first on line 3
    4 |   age: 4
      |   ^
home.yml:5:15: unknown key "zzzzzzz": expected one of age, every, name, share, shy, tags
    5 | - {name: tom, zzzzzzz: 1}
      |               ^
home.yml:6:7: expr is a list: expected a text
    6 | expr: []
      |       ^
5 errors in 1 file`},
		{name: "duration", text: "pets: [{every: 5 minutes}]", want: `
home.yml:1:16: every: "5 minutes" is not a duration: expected one such as 15s, 5m or 1h30m
    1 | pets: [{every: 5 minutes}]
      |                ^
1 error in 1 file`},
		{name: "not a list", text: "pets: rex", want: `
home.yml:1:7: pets is "rex": expected a list
    1 | pets: rex
      |       ^
1 error in 1 file`},
		{name: "not YAML", text: "pets:\n  - name: [a\n  b: c\n", want: `
home.yml:1:1: YAML: did not find expected ',' or ']'
    1 | pets:
      | ^
1 error in 1 file`},
		{name: "two documents", text: "pets: []\n---\npets: []\n", want: `
home.yml:2:1: a second YAML document: put it in a file of its own
    2 | ---
      | ^
1 error in 1 file`},
		{name: "not text", text: "pets: []\nexpr: a\xffb\n", want: `
home.yml:2:8: not valid UTF-8
    2 | expr: a�b
      |        ^
1 error in 1 file`},
		{
			name: "a place in a block", text: "expr: |\n  sum(\n    rate(x[5m]) by (job)\n",
			more: func(d *Decoder) { d.FaultAt("expr", strings.Index("sum(\n  rate(x[5m]) by (job)\n", "by"), "no") }, want: `
home.yml:3:17: no
    3 |     rate(x[5m]) by (job)
      |                 ^
1 error in 1 file`,
		},
		{
			name: "a place in a folded block after a blank line", text: "expr: >-\n\n  sum(x)\n  + é y\n",
			more: func(d *Decoder) { d.FaultAt("expr", strings.Index("sum(x) + é y", "y"), "no") }, want: `
home.yml:4:7: no
    4 |   + é y
      |       ^
1 error in 1 file`,
		},
		{
			name: "a place in quotes", text: "expr: 'up == 0'\n",
			more: func(d *Decoder) { d.FaultAt("expr", 3, "no") }, want: `
home.yml:1:11: no
    1 | expr: 'up == 0'
      |           ^
1 error in 1 file`,
		},
		{
			name: "a place on the second line of a plain scalar", text: "expr: up\n  == 0\n",
			more: func(d *Decoder) { d.FaultAt("expr", 6, "no") }, want: `
home.yml:2:6: no
    2 |   == 0
      |      ^
1 error in 1 file`,
		},
		{
			name: "a missing key is shown where it is missing", text: "pets:\n- name: rex\n",
			more: func(d *Decoder) {
				d.Faults("", errors.Join(errors.New("pets[0].age: missing"), errors.New("no path here")))
			}, want: `
home.yml:1:1: no path here
    1 | pets:
      | ^
home.yml:2:3: pets[0].age: missing
    2 | - name: rex
      |   ^
2 errors in 1 file`,
		},
		{name: "an alias of itself", text: "pets: [{tags: &a {a: *a}}]", want: `
home.yml:1:15: pets[0].tags.a is a mapping: expected a text
    1 | pets: [{tags: &a {a: *a}}]
      |               ^
1 error in 1 file`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decodeHome(t, tt.text, tt.more)
			if err == nil {
				t.Fatal("no error")
			}
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), err.Error()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSuggest(t *testing.T) {
	known := []string{"target_per_replica", "value", "name", "min", "max", "if", "do"}
	for word, want := range map[string]string{
		"target_per_replcia": "target_per_replica",
		"vlaue":              "value",
		"nam":                "name",
		"mim":                "min",
		"zz":                 "",
		"quite_else":         "",
	} {
		if got := Suggest(word, known); got != want {
			t.Errorf("Suggest(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestMergedKeysAreThere(t *testing.T) {
	f, err := Parse("f", []byte("pets:\n- &base {age: old}\n- {<<: *base, name: tom}\n- {<<: [*base], name: rex}\n"))
	if err != nil {
		t.Fatal(err)
	}
	d := f.Decoder()
	for _, path := range []string{"pets[1].age", "pets[1].name", "pets[2].age"} {
		if !d.Has(path) {
			t.Errorf("no %s", path)
		}
	}
	if d.Has("pets[1].tags") {
		t.Error("tags")
	}
	d.FaultAt("pets[1].age", 0, "no number")
	if got, want := d.Err().Error(), "f:2:15: no number\n"; !strings.HasPrefix(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestKeysWithDots: a key that has dots itself, such as the name of a resource with its group, is found in a path.
func TestKeysWithDots(t *testing.T) {
	f, err := Parse("f", []byte("pets:\n- tags:\n    a: {}\n    a.b.example: {c: [0, {d: 1}]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	d := f.Decoder()
	for path, want := range map[string]bool{
		"pets[0].tags.a":                  true,
		"pets[0].tags.a.b.example":        true,
		"pets[0].tags.a.b.example.c":      true,
		"pets[0].tags.a.b.example.c[1].d": true,
		"pets[0].tags.b.example":          false,
		"pets[0].tags.a.b.example.c[1].e": false,
	} {
		if got := d.Has(path); got != want {
			t.Errorf("%s is there: %v", path, got)
		}
	}
	d.FaultAt("pets[0].tags.a.b.example.c[1].d", 0, "no")
	if got, want := d.Err().Error(), "f:4:30: no\n"; !strings.HasPrefix(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestNodeNeedsNothingOutside(t *testing.T) {
	f, err := Parse("f", []byte("pets:\n- &base {name: rex}\nnode: {a: *base, b: [*base]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Pets []pet      `yaml:"pets"`
		Node *yaml.Node `yaml:"node"`
	}
	d := f.Decoder()
	d.Decode(&v)
	text, err := yaml.Marshal(v.Node)
	if want := "{a: {name: rex}, b: [{name: rex}]}\n"; d.Err() != nil || err != nil || string(text) != want {
		t.Errorf("%v, %v: %s", d.Err(), err, text)
	}
	f, err = Parse("f", []byte("node: &a [*a, *a]\n"))
	if err != nil {
		t.Fatal(err)
	}
	d = f.Decoder()
	d.Decode(&v)
	if d.Err() == nil {
		t.Error("an alias of itself was taken")
	}
}

func TestLongAndBinaryLines(t *testing.T) {
	f, err := Parse("f", []byte("expr: "+strings.Repeat("x", 5000)+"\u001b[31m"+strings.Repeat("y", 5000)+"\n"))
	if err == nil {
		d := f.Decoder()
		d.FaultAt("expr", 5002, "no")
		err = d.Err()
	}
	text := err.Error()
	if len(text) > 500 || strings.Contains(text, "\x1b") {
		t.Errorf("%d bytes: %q", len(text), text)
	}
}

type tree struct {
	Of []tree `yaml:"of"`
}

func TestAliasesCannotExplode(t *testing.T) {
	laughs := "of: [&a0 {}"
	for i := range 20 {
		laughs += fmt.Sprintf(", &a%d {of: [%s*a%d]}", i+1, strings.Repeat(fmt.Sprintf("*a%d, ", i), 9), i)
	}
	for text, want := range map[string]string{
		"of: [&a {of: [*a, *a, *a]}]\n": "bomb.yml:1:15: alias *a is inside of what it stands for",
		laughs + "]\n":                  "aliases that stand for more than 40000 values",
	} {
		f, err := Parse("bomb.yml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		d := f.Decoder()
		var v tree
		d.Decode(&v)
		if err := d.Err(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v", err)
		}
	}
}

// FuzzDecode: whatever the bytes, reading them ends, does not panic, and each fault is at a place that exists.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("pets:\n- {name: rex, age: 3, every: 1m, tags: {a: b}}\nexpr: |\n  up\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("<<: {pets: 1}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse("f", text)
		if err == nil {
			d := file.Decoder()
			var h home
			d.Decode(&h)
			d.FaultAt("expr", len(h.Expr)/2, "a fault")
			err = d.Err()
		}
		var all Errors
		if !errors.As(err, &all) {
			t.Fatalf("not Errors: %v", err)
		}
		_ = all.Error()
		for _, e := range all {
			if e.Line > strings.Count(string(text), "\n")+1 || e.Line > 0 && e.Column < 1 {
				t.Errorf("place %d:%d is outside the text", e.Line, e.Column)
			}
		}
	})
}

// TestSecretsAreNotShown: the line that a fault is on may hold a password beside it.
func TestSecretsAreNotShown(t *testing.T) {
	for line, want := range map[string]string{
		"  password: hunter2":                               "  password: *******",
		"a: {password: 'x, y', user: u}":                    "a: {password: ******, user: u}",
		`{"credentials": "é2", user: u}`:                    `{"credentials": ****, user: u}`,
		"http_headers: {X: {secrets: [a, b]}, Y: {f: [z]}}": "http_headers: {X: {secrets: ******}, Y: {f: [z]}}",
		"  password_file: /run/secret":                      "  password_file: /run/secret",
		"url: http://u:p:w@h:80/x: y":                       "url: http://u:***@h:80/x: y",
		"url: http://h:80/a@b":                              "url: http://h:80/a@b",
		"url: https://ab@h/":                                "url: https://**@h/",
		"url: unix:/run/s:/m?token=ab":                      "url: unix:/run/s:/m?token=**",
		"{url: \"http://h/m?token=a1&b=c3\", x: y}":         "{url: \"http://h/m?token=**&b=**\", x: y}",
		"url: h:80/m?token=ab, x: y":                        "url: h:80/m?token=**, x: y",
		"url: http://h/m?ab=&b=c3#d":                        "url: http://h/m?***&b=**#d",
		"url: http://h:80?abc":                              "url: http://h:80?***",
		`regex: "https?://(.*?)b"`:                          `regex: "https?://(.*?)b"`,
		"expr: a ?b=c":                                      "expr: a ?b=c",
		"  bearer_token: abc # password: d":                 "  bearer_token: *** # password: *",
		"t: {headers: {X-Key: a1, Y: b}, x: y}":             "t: {headers: {***************}, x: y}",
		"  Authorization: Bearer ab":                        "  Authorization: *********",
		"authorization: {type: Bearer, credentials: ab}":    "authorization: {type: Bearer, credentials: **}",
		"ignore_headers: [a]":                               "ignore_headers: [a]",
	} {
		e := &Error{File: "f", Line: 1, Column: 3, Message: "m", text: line}
		if got := e.Show(); !strings.Contains(got, "| "+want+"\n") {
			t.Errorf("%q: got\n%s\nwant %q", line, got, want)
		}
	}
}

// TestFirst: Prometheus reads the first document of a rule file; what follows is told, and no fault.
func TestFirst(t *testing.T) {
	for _, tt := range []struct{ text, name, more string }{
		{"a: 1\n", "1", ""},
		{"a: 1\n---\na: 2\n", "1", "f.yml:2:1: a second YAML document: put it in a file of its own"},
		{"a: 1\n---\n{ [ }\n", "1", "f.yml:2:1: YAML: did not find expected node content"},
		{"\ufeffa: ü\n", "ü", ""},
		{"\xff\xfea\x00:\x00 \x00\xfc\x00", "ü", ""},
		{"\xfe\xff\x00a\x00:\x00 \x00\xfc", "ü", ""},
	} {
		f, err := ParseFirst("f.yml", []byte(tt.text))
		if err != nil {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		var v struct {
			A string `yaml:"a"`
		}
		d := f.Decoder()
		d.Decode(&v)
		more := ""
		if err := f.More(); err != nil {
			more, _, _ = strings.Cut(err.Error(), "\n")
		}
		if v.A != tt.name || d.Err() != nil || more != tt.more {
			t.Errorf("%q: got %q, %v and %q", tt.text, v.A, d.Err(), more)
		}
	}
}

// TestMerges: keys that are merged count after a mapping's own, through any number of merges, and cost no more than they
// are long.
func TestMerges(t *testing.T) {
	var b strings.Builder
	b.WriteString("m0: &m0 {a: zero, b: zero, c: zero}\n")
	for i := range 60 { // each merges the one before twice
		fmt.Fprintf(&b, "m%d: &m%d {<<: [*m%d, *m%d], b: m%d}\n", i+1, i+1, i, i, i+1)
	}
	b.WriteString("last: {c: own, <<: *m60, ~: nothing}\n")
	f, err := Parse("f.yml", []byte(b.String()))
	if err != nil {
		t.Fatal(err)
	}
	var all map[string]map[string]string
	d := f.Decoder()
	d.Decode(&all)
	if diff := cmp.Diff(map[string]string{"a": "zero", "b": "m60", "c": "own"}, all["last"]); diff != "" || d.Err() != nil {
		t.Errorf("%v\n%s", d.Err(), diff)
	}
	if !d.Has("last.a") || d.Has("last.d") {
		t.Error("a merged key is not found")
	}
}

type nap struct {
	Delay model.Duration `yaml:"delay"`
	Sleep model.Duration `yaml:"sleep"`
}

func (n *nap) SetDefaults()   { n.Delay = 1e9 }
func (n *nap) Shorthand() any { return &n.Sleep }

// TestShorthand: a struct that may be written as one value, or with its keys.
func TestShorthand(t *testing.T) {
	for _, tt := range []struct {
		text, fault string
		want        nap
	}{
		{text: "nap: 5s", want: nap{1e9, 5e9}},
		{text: "nap: {delay: 2s, sleep: 5s}", want: nap{2e9, 5e9}},
		{text: "nap:", want: nap{}},
		{text: "nap: 5x", fault: `home.yml:1:6: nap: "5x" is not a duration: expected one such as 15s, 5m or 1h30m`},
		{text: "nap: {sleeep: 5s}", fault: `home.yml:1:7: unknown key "sleeep" (did you mean "sleep"?)`},
	} {
		t.Run(tt.text, func(t *testing.T) {
			f, err := Parse("home.yml", []byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			var got struct {
				Nap nap `yaml:"nap"`
			}
			d := f.Decoder()
			d.Decode(&got)
			switch err := d.Err(); {
			case tt.fault != "":
				if err == nil || !strings.HasPrefix(err.Error(), tt.fault) {
					t.Errorf("got %v, want %s", err, tt.fault)
				}
			case err != nil || got.Nap != tt.want:
				t.Errorf("got %v, %v, want %v", got.Nap, err, tt.want)
			}
		})
	}
}
