package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kingpin/v2"
	"github.com/google/go-cmp/cmp"

	"flyball/rules/peertest"
)

func TestComplete(t *testing.T) {
	rules := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/flyball/rules" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, `{"status": "success", "data": [{"name": "digits"}, {"name": "llama"}]}`)
	}))
	defer rules.Close()
	for _, tt := range []struct {
		words string // separated by blanks; the last one may be empty
		want  string
	}{
		{"che", "check"},
		{"check w", "web-config"},
		{"check config ", ":files"},
		{"check config a.yml ", "--help --version --log.level --log.format --output --lint"},
		{"check rules a.yml b", ":files"},
		{"run --ro", "--role"},
		{"run --role ex", "exporter"},
		{"run --role=", "--role=all --role=exporter --role=batchproxy --role=rules"},
		{"run --role=all --ro", "--role"}, // repeatable
		{"run --act.enabled --act", "--act.targets --act.max-changes-per-minute"},
		{"run --web.config.file=w", ":files"},
		{"run --web.config.file ", ":files"},
		{"run --storage.path=", ":directories"},
		{"run --web.enable-lifecycle --log.level=de", "--log.level=debug"},
		{"--log.level error run --log.f", "--log.format"},
		{"explain --url=URL ", "digits llama"},
		{"explain --url URL d", "digits"},
		{"explain --url=URL -- l", "llama"},
		{"explain --url=URL -- --j", ""}, // no flag after --
		{"explain -o ", "text json"},
		{"explain --output=j", "--output=json"},
		{"bench --protocol=v", "--protocol=v2 --protocol=v1"},
		{"bench --rate=", ""},
		{"convert h", "hpa"},
		{"convert hpa ", ":files"},
		{"help che", "check"},
		{"help check r", "rules ready"},
		{"completion f", "fish"},
		{"nonsense vers", "version"}, // the first word is for the parser to refuse
		{"supervi", ""},              // not for users
	} {
		words := strings.Split(strings.ReplaceAll(tt.words, "URL", rules.URL), " ")
		var out bytes.Buffer
		if code := execute(t.Context(), append([]string{"complete"}, words...), &out, &out); code != exitOK {
			t.Errorf("%q: exit %d", tt.words, code)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			got = append(got, word)
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%q: %s", tt.words, diff)
		}
	}
}

// TestEnums: each enumeration of the command line has values to complete, though kingpin keeps them to itself.
func TestEnums(t *testing.T) {
	app := kingpin.New("flyball", "x")
	newCommands(app, nil, nil)
	found := 0
	for _, c := range app.Model().FlattenedCommands() {
		for _, f := range c.Flags {
			if strings.Contains(fmt.Sprintf("%T", f.Value), "enum") {
				found++
				if values := enumOf(f.Value); len(values) < 2 || strings.ContainsAny(strings.Join(values, ""), " '\x00") {
					t.Errorf("%s --%s: %q", c.FullCommand, f.Name, values)
				}
			}
		}
	}
	if found < 4 {
		t.Errorf("only %d enumerations found", found)
	}
}

// completionCase is a line at a prompt, and what it becomes, or one of what is offered.
type completionCase struct{ line, want string }

func completionCases() []completionCase {
	return []completionCase{
		{"flyball vers", "version"},
		{"flyball check web", "web-config"},
		{"flyball run --role=expo", "--role=exporter"},
		{"flyball run --role expo", "exporter"},
		{"flyball run --web.listen-a", "--web.listen-address"},
		{"flyball explain digi", "digits"}, // from the configuration in the folder
		{"flyball check config odd", "odd name.yml"},
		{"flyball run --config.file=flyb", "flyball.yml"},
		{"flyball run --storage.path=sta", "state"},
	}
}

// completionHome is a folder with a configuration, and an environment in which the shells find flyball.
func completionHome(t *testing.T) (dir string, env []string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"flyball.yml", "rules.yml"} {
		text, err := os.ReadFile(filepath.Join("../../examples/quickstart", name))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), string(text))
	}
	write(t, filepath.Join(dir, "odd name.yml"), "")
	if err := os.Mkdir(filepath.Join(dir, "state"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, append(os.Environ(), "PATH="+built.dir+string(os.PathListSeparator)+os.Getenv("PATH"), "HOME="+dir, "ZDOTDIR="+dir, "TERM=dumb", "LC_ALL=C.UTF-8")
}

func shell(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), peertest.Binary(t, name), args...)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func TestCompletionBash(t *testing.T) {
	dir, env := completionHome(t)
	for _, tt := range append(completionCases(),
		completionCase{"~/bin/flyball vers", "version"}, completionCase{"flyball run --web.external-url=http:", ""}) {
		// The words as bash splits them itself, at = and : too; the script goes by the line.
		out := shell(t, dir, env, "bash", "--norc", "-c", `
			mkdir -p ~/bin && ln -sf "$(command -v flyball)" ~/bin/flyball
			source <(flyball completion bash)
			COMP_LINE=$1 COMP_POINT=${#1}
			COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
			_flyball
			printf '%s\n' "${COMPREPLY[@]}"`, "bash", tt.line)
		want := tt.want
		if _, value, ok := strings.Cut(want, "="); ok {
			want = value // bash replaces what stands behind the =
		}
		if strings.TrimSpace(out) != want {
			t.Errorf("%s: %q, want %q", tt.line, out, want)
		}
	}
	// Registered for a shell that runs interactively, without an error.
	if out := shell(t, dir, env, "bash", "--norc", "-c", `source <(flyball completion bash); complete -p flyball`); out != "complete -F _flyball flyball\n" {
		t.Errorf("bash says %q", out)
	}
}

func TestCompletionFish(t *testing.T) {
	dir, env := completionHome(t)
	for _, tt := range completionCases() {
		out := shell(t, dir, env, "fish", "--no-config", "-c", `flyball completion fish | source; complete -C "$argv[1]"`, tt.line)
		found := false
		for line := range strings.Lines(out) {
			word, _, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
			word = strings.TrimSuffix(strings.ReplaceAll(word, `\`, ""), "/")
			found = found || word == tt.want || strings.HasSuffix(word, "="+tt.want)
		}
		if !found || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: %q, want %q", tt.line, out, tt.want)
		}
	}
	out := shell(t, dir, env, "fish", "--no-config", "-c", `flyball completion fish | source; complete -C "flyball ch"`)
	if out != "check\tCheck files without running anything\n" {
		t.Errorf("fish says %q", out)
	}
}

// TestCompletionZsh types into an interactive zsh, and looks at what stands on its line after Tab.
func TestCompletionZsh(t *testing.T) {
	dir, env := completionHome(t)
	write(t, filepath.Join(dir, "type.zsh"), `
zmodload zsh/zpty || exit 1
zpty z zsh -f -i
wait_for() { # what the inner shell writes, up to this
	local text piece
	repeat 400; do
		while zpty -rt z piece 2>/dev/null; do text+=$piece; done
		[[ $text == *$1* ]] && { REPLY=$text; return 0; }
		sleep 0.05
	done
	print -r -- "no $1 in: $text"
	exit 1
}
zpty -w z 'PS1="ready> "; unsetopt zle_bracketed_paste; zstyle ":completion:*" menu no'
zpty -w z 'autoload -Uz compinit && compinit -u -d $HOME/dump && source <(flyball completion zsh)'
zpty -w z 'show() { zle -I; print -r -- "<line:${BUFFER}:line>"; BUFFER=; }; zle -N show; bindkey "^X" show; print set"up"'
wait_for setup
for line; do
	zpty -w -n z "$line"$'\t'
	zpty -w -n z $'\x18'
	wait_for ':line>'
	REPLY=${REPLY##*<line:}
	print -r -- "${REPLY%%:line>*}"
done
zpty -d z
`)
	args := []string{"-f", "type.zsh"}
	for _, tt := range completionCases() {
		args = append(args, tt.line)
	}
	got := strings.Split(strings.TrimSuffix(shell(t, dir, env, "zsh", args...), "\n"), "\n")
	if len(got) != len(completionCases()) {
		t.Fatalf("zsh says %q", got)
	}
	for i, tt := range completionCases() {
		line := strings.TrimSuffix(strings.TrimRight(strings.ReplaceAll(got[i], `\`, ""), " "), "/")
		if !strings.HasPrefix(line, "flyball ") || !strings.HasSuffix(line, tt.want) || strings.HasSuffix(tt.line, tt.want) {
			t.Errorf("%s: %q, want %q", tt.line, got[i], tt.want)
		}
	}
}

// TestManual holds the manual page, and has the tools that show it read it.
func TestManual(t *testing.T) {
	var out bytes.Buffer
	if code := execute(t.Context(), []string{"--help-man"}, &out, &out); code != exitOK {
		t.Fatalf("exit %d: %s", code, &out)
	}
	text := out.String()
	first, rest, _ := strings.Cut(text, "\n")
	if !strings.HasPrefix(first, ".TH FLYBALL 1 "+manDate+` "flyball `) {
		t.Errorf("it begins with %s", first)
	}
	golden(t, "flyball.1.golden", []string{strings.TrimSuffix(rest, "\n")})
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "'") || len(line) > 81 {
			t.Errorf("a line that is none of roff's, or too long: %s", line)
		}
	}
	page := filepath.Join(t.TempDir(), "flyball.1")
	write(t, page, text)
	for _, tool := range [][]string{{"mandoc", "-Tlint", "-W", "style", page}, {"groff", "-man", "-ww", "-z", page}} {
		path, err := exec.LookPath(tool[0])
		if err != nil {
			t.Logf("%s is not here to read the page", tool[0])
			continue
		}
		if out, err := exec.CommandContext(t.Context(), path, tool[1:]...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", tool[0], err, out)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, tt := range []struct {
		args string
		want []string
	}{
		{"--help", []string{"Run:\n  run ", "Check, before and after:\n  check config ", "The rest:\n"}},
		{"help", []string{"Understand:\n  explain "}},
		{"help check", []string{"usage: flyball check <command>", "  check web-config "}},
		{"help explain", []string{"usage: flyball explain [<flags>] <rule>", "--journal"}},
		{"run --help", []string{"web.systemd-socket"}},
	} {
		var stdout, stderr bytes.Buffer
		code := execute(t.Context(), strings.Fields(tt.args), &stdout, &stderr)
		if code != exitOK || stderr.Len() > 0 || strings.Count(stdout.String(), "usage: ") != 1 {
			t.Errorf("%s: exit %d: %s%s", tt.args, code, &stdout, &stderr)
		}
		for _, want := range tt.want {
			if !strings.Contains(stdout.String(), want) {
				t.Errorf("%s: no %q in\n%s", tt.args, want, &stdout)
			}
		}
	}
}
