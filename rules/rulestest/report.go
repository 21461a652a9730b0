package rulestest

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"flyball/rules/source"
)

// Report is what became of test files.
type Report struct {
	Passed bool          `json:"passed"`
	Tests  int           `json:"tests"`
	Failed int           `json:"failed"`
	Files  []*FileReport `json:"files"`
}

// FileReport is what became of the tests of one file.
type FileReport struct {
	File     string        `json:"file"`
	Passed   bool          `json:"passed"`
	Warnings []string      `json:"warnings,omitempty"`
	Failures []Failure     `json:"failures,omitempty"` // of the file as a whole: none of its tests was run
	Tests    []*TestReport `json:"tests"`
}

// TestReport is what became of one test.
type TestReport struct {
	Name        string    `json:"name"` // unnamed#N where it has none, N counting from 0
	Passed      bool      `json:"passed"`
	Evaluations int       `json:"evaluations"`
	Seconds     float64   `json:"seconds"` // that it took
	Failures    []Failure `json:"failures,omitempty"`
}

// Failure is one thing that is not as expected.
type Failure struct {
	*source.Error
	Want []string `json:"want,omitempty"` // line by line
	Got  []string `json:"got,omitempty"`

	compared bool // want and got are what failed, even if both are empty
}

func (r *Report) add(f *FileReport) {
	r.Files = append(r.Files, f)
	r.Passed = r.Passed && f.Passed
	for _, t := range f.Tests {
		r.Tests++
		if !t.Passed {
			r.Failed++
		}
	}
}

func (f *FileReport) add(t *TestReport) {
	f.Tests = append(f.Tests, t)
	f.Passed = f.Passed && t.Passed
}

// fail notes why the file cannot be tested.
func (f *FileReport) fail(err error) {
	f.Passed = false
	f.Failures = append(f.Failures, failures(err)...)
}

func (t *TestReport) fail(err error) {
	t.Passed = false
	t.Failures = append(t.Failures, failures(err)...)
}

func failures(err error) (all []Failure) {
	if faults, ok := errors.AsType[source.Errors](err); ok {
		for _, e := range faults {
			all = append(all, Failure{Error: e})
		}
		return all
	}
	return []Failure{{Error: &source.Error{Message: err.Error()}}}
}

// failAt notes a failure at a path of the test file: what was expected and what was got, where that is what failed.
func (r *run) failAt(path string, want, got []string, format string, args ...any) {
	d := r.source.Decoder()
	d.FaultAt(path, 0, format, args...)
	all := failures(d.Err())
	all[0].Want, all[0].Got, all[0].compared = want, got, want != nil || got != nil
	r.report.Passed = false
	r.report.Failures = append(r.report.Failures, all...)
}

// Text writes the report for a reader; diff shows what was expected and got as one difference, line by line.
func (r *Report) Text(w io.Writer, diff bool) error {
	var b strings.Builder
	for _, f := range r.Files {
		for _, warning := range f.Warnings {
			fmt.Fprintf(&b, "%s: warning: %s\n", f.File, warning)
		}
		for _, failure := range f.Failures {
			b.WriteString(failure.text(diff))
		}
		if f.Failures != nil {
			fmt.Fprintf(&b, "%s: failed: no test was run\n", f.File)
			continue
		}
		failed := 0
		for _, t := range f.Tests {
			if t.Passed {
				continue
			}
			failed++
			fmt.Fprintf(&b, "%s: %s: failed\n", f.File, t.Name)
			for _, failure := range t.Failures {
				b.WriteString(indent(failure.text(diff), "  "))
			}
		}
		if failed > 0 {
			fmt.Fprintf(&b, "%s: failed: %d of %s\n", f.File, failed, testCount(len(f.Tests)))
			continue
		}
		fmt.Fprintf(&b, "%s: ok: %s\n", f.File, testCount(len(f.Tests)))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func testCount(n int) string {
	if n == 1 {
		return "1 test"
	}
	return fmt.Sprintf("%d tests", n)
}

// text is the failure with its place and what it compared.
func (f Failure) text(diff bool) string {
	text := f.Show() + "\n"
	switch {
	case !f.compared:
	case diff:
		text += "  " + strings.Join(difference(f.Want, f.Got), "\n  ") + "\n"
	default:
		text += block("expected", f.Want) + block("got", f.Got)
	}
	return text
}

// block writes lines behind a word.
func block(word string, lines []string) string {
	if len(lines) == 0 {
		lines = []string{"nothing"}
	}
	var b strings.Builder
	for i, line := range lines {
		if i > 0 {
			word = ""
		}
		fmt.Fprintf(&b, "  %-9s %s\n", word, line)
	}
	return b.String()
}

func indent(text, by string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(by + line)
	}
	return b.String()
}

// difference is what leads from one list of lines to another: those of both, those that are missing (-) and those that are
// too many (+).
func difference(want, got []string) (lines []string) {
	// The longest common subsequence, from the ends: a decision has a dozen lines, an answer seldom more than some hundred.
	const most = 2000
	if len(want) > most || len(got) > most {
		for _, w := range want {
			lines = append(lines, "- "+w)
		}
		for _, g := range got {
			lines = append(lines, "+ "+g)
		}
		return lines
	}
	length := make([][]int, len(want)+1)
	for i := range length {
		length[i] = make([]int, len(got)+1)
	}
	for i, line := range slices.Backward(want) {
		for j := len(got) - 1; j >= 0; j-- {
			if line == got[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(want) || j < len(got) {
		switch {
		case i < len(want) && j < len(got) && want[i] == got[j]:
			lines = append(lines, "  "+want[i])
			i, j = i+1, j+1
		case j == len(got) || i < len(want) && length[i+1][j] >= length[i][j+1]:
			lines = append(lines, "- "+want[i])
			i++
		default:
			lines = append(lines, "+ "+got[j])
			j++
		}
	}
	return lines
}

// JSON writes the whole report.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// JUnit's XML, which CI systems read.
type (
	junitSuites struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name     string      `xml:"name,attr"`
		Tests    int         `xml:"tests,attr"`
		Failures int         `xml:"failures,attr"`
		Errors   int         `xml:"errors,attr"`
		Time     string      `xml:"time,attr"`
		Cases    []junitCase `xml:"testcase"`
	}
	junitCase struct {
		Name     string         `xml:"name,attr"`
		Class    string         `xml:"classname,attr"`
		File     string         `xml:"file,attr"`
		Time     string         `xml:"time,attr"`
		Failures []junitFailure `xml:"failure"`
		Error    *junitFailure  `xml:"error"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
)

// JUnit writes the report as JUnit's XML: a suite for each file, an error for a file that could not be tested.
func (r *Report) JUnit(w io.Writer) error {
	all := junitSuites{}
	for _, f := range r.Files {
		s := junitSuite{Name: f.File}
		if f.Failures != nil {
			s.Errors = 1
			s.Cases = append(s.Cases, junitCase{
				Name: f.File, Class: f.File, File: f.File, Time: "0",
				Error: &junitFailure{f.Failures[0].Error.Error(), textOf(f.Failures)},
			})
		}
		seconds := 0.0
		for _, t := range f.Tests {
			c := junitCase{Name: t.Name, Class: f.File, File: f.File, Time: fmt.Sprintf("%.3f", t.Seconds)}
			seconds += t.Seconds
			for _, failure := range t.Failures {
				c.Failures = append(c.Failures, junitFailure{failure.Error.Error(), textOf([]Failure{failure})})
			}
			if !t.Passed {
				s.Failures++
			}
			s.Cases = append(s.Cases, c)
		}
		s.Tests, s.Time = len(s.Cases), fmt.Sprintf("%.3f", seconds)
		all.Tests, all.Failures, all.Errors = all.Tests+s.Tests, all.Failures+s.Failures, all.Errors+s.Errors
		all.Suites = append(all.Suites, s)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return fmt.Errorf("write JUnit XML: %w", err)
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func textOf(all []Failure) string {
	var b strings.Builder
	for _, f := range all {
		b.WriteString(f.text(false))
	}
	return b.String()
}
