package mixin

import (
	"net/http"
	"path"
	"slices"
	"strings"

	"flyball/rules/source"
)

// Runbooks lists the alerts that have a runbook, sorted: the names that RunbookHandler answers to.
func Runbooks() []string {
	entries, err := Source.ReadDir("runbooks")
	if err != nil {
		return nil // the folder is embedded
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".md"); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// RunbookHandler serves the runbook of the alert that the last element of the path names, as Markdown text: what the
// annotation runbook_url of each alert links to.
//
//	mux.Handle("GET /runbooks/{alert}", mixin.RunbookHandler())
func RunbookHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := path.Base(r.URL.Path)
		text, err := Source.ReadFile("runbooks/" + name + ".md")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if err != nil {
			http.Error(w, "no runbook of this name"+source.DidYouMean(name, Runbooks()), http.StatusNotFound)
			return
		}
		// Browsers show plain text and offer to save text/markdown.
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write(text)
	})
}
