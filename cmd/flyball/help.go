package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
	"github.com/prometheus/common/version"
)

// usageTemplate is kingpin's own, but the commands are in groups, one line each; `flyball help COMMAND` has the rest.
const usageTemplate = `{{define "Synopsis"}}{{if .FlagSummary}} {{.FlagSummary}}{{end}}{{range .Args}} {{if not .Required}}[{{end}}<{{.Name}}>{{if .Value|IsCumulative}}...{{end}}{{if not .Required}}]{{end}}{{end}}{{if .Commands}} <command> [<args> ...]{{end}}
{{if .Help}}
{{.Help|Wrap 0}}{{end}}{{end -}}
{{if .Context.SelectedCommand -}}
usage: {{.App.Name}} {{.Context.SelectedCommand}}{{template "Synopsis" .Context.SelectedCommand}}
{{- else -}}
usage: {{.App.Name}}{{template "Synopsis" .App}}
{{- end}}
{{if .Context.SelectedCommand}}{{if .Context.SelectedCommand.Commands}}Commands:
{{range .Context.SelectedCommand.FlattenedCommands}}{{if not .Hidden}}{{Line .FullCommand .Help}}{{end}}{{end}}
{{end}}{{else}}{{range Groups .App}}{{.Title}}:
{{range .Commands}}{{Line .FullCommand .Help}}{{end}}
{{end}}{{end -}}
{{if .Context.Args}}Args:
{{.Context.Args|ArgsToTwoColumns|FormatTwoColumns}}
{{end -}}
{{if .Context.Flags}}Flags:
{{.Context.Flags|FlagsToTwoColumns|FormatTwoColumns}}{{end}}`

// commandGroup is what belongs together in the help.
type commandGroup struct {
	Title    string
	Commands []*kingpin.CmdModel
}

// commandGroups puts the commands in groups by their first word. A new one that has no group comes with the rest.
func commandGroups(app *kingpin.ApplicationModel) []commandGroup {
	groups := []struct {
		title string
		verbs []string
	}{
		{"Run", []string{"run"}},
		{"Check, before and after", []string{"check", "test", "backtest"}},
		{"Understand", []string{"explain", "query", "forecast", "probe", "report", "cost"}},
		{"Measure", []string{"bench", "calibrate"}},
		{"Intervene", []string{"pause", "resume", "freeze"}},
		{"Produce", []string{"mixin", "export", "convert", "optimize"}},
		{"The rest", nil},
	}
	found := make([]commandGroup, len(groups))
	for i, g := range groups {
		found[i].Title = g.title
	}
	for _, c := range app.FlattenedCommands() {
		if c.Hidden {
			continue
		}
		verb, _, _ := strings.Cut(c.FullCommand, " ")
		i := len(groups) - 1
		for j, g := range groups {
			if slices.Contains(g.verbs, verb) {
				i = j
			}
		}
		found[i].Commands = append(found[i].Commands, c)
	}
	return slices.DeleteFunc(found, func(g commandGroup) bool { return len(g.Commands) == 0 })
}

// addHelp gives the command line its help, and --version, which is there beside the command because Prometheus's programs
// have it.
func addHelp(app *kingpin.Application) {
	app.Version(version.Print("flyball"))
	app.VersionFlag.Help("Print the version.")
	app.HelpFlag.Short('h')
	app.HelpFlag.Help("Show help; flyball help COMMAND shows that of a command, --help-man the manual page.")
	app.UsageFuncs(map[string]any{
		"Groups": commandGroups,
		"Line":   func(name, help string) string { return fmt.Sprintf("  %-18s %s\n", name, summary(help)) },
	})
	app.UsageTemplate(usageTemplate)
}
