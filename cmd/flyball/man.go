package main

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
)

// manDate is when what the manual page says was last changed; pages have a date, and that of the build would make each
// build another one.
const manDate = "2026-11-25"

//go:embed man.roff
var manRest string // what the command line itself does not know: files, exit status, signals, examples

// writeMan writes the manual page, flyball(1).
func writeMan(w io.Writer, app *kingpin.ApplicationModel, version string) error {
	m := &manual{bufio.NewWriter(w)}
	m.line(`.TH FLYBALL 1 %s "flyball %s" "User Commands"`, manDate, roff(version))
	m.line(".SH NAME")
	m.text("flyball - " + strings.TrimSuffix(strings.ToLower(app.Help[:1])+app.Help[1:], "."))
	m.line(".SH SYNOPSIS\n.B flyball\n.RI [ flags ]\n.I command\n.RI [ arguments ]")
	before, after, _ := strings.Cut(manRest, ".\\\" COMMANDS\n")
	fmt.Fprint(m, before)
	m.line(".SH COMMANDS")
	for _, c := range app.FlattenedCommands() {
		if !c.Hidden {
			m.command(c)
		}
	}
	m.line(".SH OPTIONS\nOf every command.")
	m.flags(app.Flags)
	fmt.Fprint(m, after)
	return m.Flush()
}

type manual struct{ *bufio.Writer }

func (m *manual) line(format string, args ...any) { fmt.Fprintf(m, format+"\n", args...) }

// text writes a paragraph, in lines that no tool complains of.
func (m *manual) text(text string) {
	const width = 78
	n := 0
	for i, word := range strings.Fields(text) {
		word = roff(word)
		switch {
		case i > 0 && n+1+len(word) > width:
			fmt.Fprint(m, "\n")
			n = 0
		case i > 0:
			fmt.Fprint(m, " ")
			n++
		}
		fmt.Fprint(m, word)
		n += len(word)
	}
	fmt.Fprint(m, "\n")
}

func (m *manual) command(c *kingpin.CmdModel) {
	synopsis := []string{".B flyball", c.FullCommand}
	if len(c.Flags) > 0 {
		synopsis = append(synopsis, "[flags]")
	}
	for _, a := range c.Args {
		text := strings.ToUpper(a.Name)
		if isCumulative(a.Value) {
			text += "..."
		}
		if !a.Required {
			text = "[" + text + "]"
		}
		synopsis = append(synopsis, text)
	}
	m.line(".SS %s\n%s", roff(c.FullCommand), roff(strings.Join(synopsis, " "), ".B "))
	m.line(".PP")
	m.text(c.Help)
	for _, a := range c.Args {
		m.line(".TP\n.I %s", roff(strings.ToUpper(a.Name)))
		m.text(withChoices(a.Help, a.Default, a.Value))
	}
	m.flags(c.Flags)
}

func (m *manual) flags(flags []*kingpin.FlagModel) {
	for _, f := range flags {
		if f.Hidden {
			continue
		}
		name := "--" + f.Name
		if f.Short != 0 {
			name = "-" + string(f.Short) + ", " + name
		}
		if f.IsBoolFlag() {
			m.line(".TP\n.B %s", roff(name))
			m.text(f.Help)
			continue
		}
		m.line(".TP\n.BI %s= VALUE", strings.ReplaceAll(roff(name), " ", `\ `))
		m.text(withChoices(f.Help, f.Default, f.Value))
	}
}

// withChoices is a help text with the values that there are and the default, where it does not say them itself.
func withChoices(help string, defaults []string, v kingpin.Value) string {
	values := enumOf(v)
	if slices.ContainsFunc(values, func(v string) bool { return !strings.Contains(help, v) }) {
		help += " One of " + strings.Join(values, ", ") + "."
	}
	if len(defaults) == 0 || defaults[0] == "" || strings.Contains(help, "efault") {
		return help
	}
	return help + " Default: " + strings.Join(defaults, ", ") + "."
}

// roff writes text so that nothing in it is taken for a request or an escape, after a request that it may begin with.
func roff(text string, request ...string) string {
	prefix := ""
	for _, r := range request {
		if rest, ok := strings.CutPrefix(text, r); ok {
			prefix, text = r, rest
		}
	}
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", `\(ga`, "'", `\(aq`, "\n", " ").Replace(text)
	if prefix == "" && strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return prefix + text
}
