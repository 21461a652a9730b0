package main

import (
	"bufio"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/promslog"
)

// completeCommand is what the shells' scripts ask: the words of a command line so far, the last of which, perhaps empty,
// is to be completed.
const completeCommand = "complete"

//go:embed completion
var completionScripts embed.FS

func completionCommand(app *kingpin.Application, stdout io.Writer) command {
	c := app.Command("completion", "Print the completion script of a shell: commands, flags, their values, files, and names of rules.")
	shell := c.Arg("shell", "bash, zsh or fish.").Required().Enum("bash", "zsh", "fish")
	return command{c.FullCommand(), func(context.Context) error {
		text, err := completionScripts.ReadFile("completion/flyball." + *shell)
		if err != nil {
			return err
		}
		_, err = stdout.Write(text)
		return err
	}}
}

// What the scripts let the shell complete itself.
const (
	completeFiles       = ":files"
	completeDirectories = ":directories"
)

// completer finds what a word of a command line may be.
type completer struct {
	rules func(url, httpConfig string) []string // names of scale rules

	flags   []*kingpin.FlagModel // that may be given here
	below   []*kingpin.CmdModel  // commands that may come next
	args    []*kingpin.ArgModel  // of the command so far
	arg     int                  // how many are given
	value   *kingpin.FlagModel   // whose value comes next
	literal bool                 // after --: no more flags
	given   map[string]string    // flags so far
}

// complete writes what the last word may be, one a line, with a tab and what it means where that is known, or what the
// shell is to complete itself.
func complete(app *kingpin.Application, words []string, w io.Writer) error {
	if len(words) == 0 {
		words = []string{""}
	}
	model := app.Model()
	help := &kingpin.CmdModel{Name: "help", Help: "Show the help of a command."} // kingpin adds it when it parses
	c := &completer{rules: ruleNames, flags: model.Flags, below: append(model.Commands, help), given: map[string]string{}}
	for _, word := range words[:len(words)-1] {
		c.follow(word)
	}
	out := bufio.NewWriter(w)
	for _, line := range c.candidates(words[len(words)-1]) {
		fmt.Fprintln(out, line)
	}
	return out.Flush()
}

// follow takes a word that is complete.
func (c *completer) follow(word string) {
	switch {
	case c.value != nil:
		c.given[c.value.Name] = word
		c.value = nil
	case word == "--":
		c.literal = true
	case !c.literal && strings.HasPrefix(word, "-") && word != "-":
		name, value, has := strings.Cut(word, "=")
		f := c.flag(name)
		switch {
		case f == nil:
		case has:
			c.given[f.Name] = value
		case f.IsBoolFlag():
			c.given[f.Name] = "true"
		default:
			c.value = f
		}
	default:
		i := slices.IndexFunc(c.below, func(m *kingpin.CmdModel) bool { return m.Name == word })
		switch {
		case i < 0:
			c.arg++
		case word == "help" && len(c.args) == 0: // the command that it is about follows
		default:
			m := c.below[i]
			c.flags, c.below, c.args = slices.Concat(c.flags, m.Flags), m.Commands, m.Args
		}
	}
}

// flag is the flag that is written so, nil for none.
func (c *completer) flag(word string) *kingpin.FlagModel {
	for _, f := range c.flags {
		if word == "--"+f.Name || f.Short != 0 && word == "-"+string(f.Short) || f.IsBoolFlag() && word == "--no-"+f.Name {
			return f
		}
	}
	return nil
}

func (c *completer) candidates(word string) []string {
	if c.value != nil {
		return withPrefix("", word, c.flagValues(c.value))
	}
	if !c.literal && strings.HasPrefix(word, "-") {
		if name, value, has := strings.Cut(word, "="); has {
			if f := c.flag(name); f != nil && !f.IsBoolFlag() {
				return withPrefix(name+"=", value, c.flagValues(f))
			}
			return nil
		}
		return withPrefix("", word, c.flagNames())
	}
	if len(c.below) > 0 {
		var names []string
		for _, m := range c.below {
			if !m.Hidden {
				names = append(names, m.Name+"\t"+summary(m.Help))
			}
		}
		return withPrefix("", word, names)
	}
	if len(c.args) > 0 {
		i := c.arg
		if last := c.args[len(c.args)-1]; i >= len(c.args) && isCumulative(last.Value) {
			i = len(c.args) - 1
		}
		if i < len(c.args) {
			return withPrefix("", word, c.values(c.args[i].Name, c.args[i].Value))
		}
	}
	if c.literal {
		return nil
	}
	return withPrefix("", word, c.flagNames()) // nothing else can come
}

// flagNames are the flags that were not given yet, or may be given again.
func (c *completer) flagNames() (names []string) {
	for _, f := range c.flags {
		if _, given := c.given[f.Name]; !f.Hidden && (!given || isCumulative(f.Value)) {
			names = append(names, "--"+f.Name+"\t"+summary(f.Help))
		}
	}
	return names
}

func isCumulative(v kingpin.Value) bool {
	r, ok := v.(interface{ IsCumulative() bool })
	return ok && r.IsCumulative()
}

func (c *completer) flagValues(f *kingpin.FlagModel) []string { return c.values(f.Name, f.Value) }

// values are what a flag or an argument may be.
func (c *completer) values(name string, v kingpin.Value) []string {
	switch name {
	case "log.level":
		return promslog.LevelFlagOptions
	case "log.format":
		return promslog.FormatFlagOptions
	case "storage.path":
		return []string{completeDirectories}
	case "rule":
		return c.rules(c.given["url"], c.given["http.config.file"])
	case "file", "journal", "trace", "payload":
		return []string{completeFiles}
	}
	if strings.HasSuffix(name, ".file") {
		return []string{completeFiles}
	}
	return enumOf(v)
}

// enumOf are the values that an enumeration takes. Kingpin tells them only in the error of a wrong one.
func enumOf(v kingpin.Value) []string {
	if v == nil || !strings.Contains(fmt.Sprintf("%T", v), "enum") {
		return nil
	}
	_, list, ok := strings.Cut(fmt.Sprint(v.Set("\x00")), "must be one of ")
	if !ok {
		return nil
	}
	list, _, _ = strings.Cut(list, ", got ")
	return strings.Split(list, ",")
}

// withPrefix keeps the candidates that begin with word, and puts in front of them what the word has before its value.
func withPrefix(prefix, word string, candidates []string) (kept []string) {
	for _, c := range candidates {
		switch {
		case c == completeFiles, c == completeDirectories:
			kept = append(kept, c)
		case strings.HasPrefix(c, word):
			kept = append(kept, prefix+c)
		}
	}
	return kept
}

// summary is the beginning of a help text: up to the first full stop, semicolon or colon.
func summary(help string) string {
	for i := range help {
		if strings.ContainsRune(".;:", rune(help[i])) && (i+1 == len(help) || help[i+1] == ' ') {
			return help[:i]
		}
	}
	return help
}

// ruleNames are the scale rules of the running flyball, or else of the configuration in this folder.
func ruleNames(url, httpConfig string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) // someone waits at a prompt
	defer cancel()
	s := server{url: url, httpConfig: httpConfig}
	if url == "" {
		s.url = defaultURL
	}
	if response, err := s.get(ctx, "/api/v1/flyball/rules"); err == nil {
		defer response.Body.Close()
		var answer struct {
			Data []struct{ Name string }
		}
		if response.StatusCode == http.StatusOK && json.NewDecoder(io.LimitReader(response.Body, 16<<20)).Decode(&answer) == nil {
			var names []string
			for _, r := range answer.Data {
				names = append(names, r.Name)
			}
			return names
		}
	}
	l, err := load("flyball.yml")
	if err != nil {
		return nil
	}
	var names []string
	for _, f := range l.rules {
		for _, g := range f.Groups {
			for _, r := range g.Rules {
				if r.Scale != nil {
					names = append(names, r.Scale.Name)
				}
			}
		}
	}
	return names
}
