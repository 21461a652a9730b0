package source

import (
	"fmt"
	"unicode/utf8"
)

// maxWord is the longest word that may have been a slip: names are shorter, and the comparison takes as long as both.
const maxWord = 200

// Suggest returns the known name that word was probably meant to be, or "" when none is close: a Damerau-Levenshtein
// distance (insertions, deletions, replacements and swaps of neighbours) of at most two or a third of the word's length.
// The first of equally close names wins.
func Suggest(word string, known []string) string {
	if len(word) > maxWord {
		return ""
	}
	best, bestDistance := "", max(2, len(word)/3)+1
	for _, k := range known {
		if d := len(word) - len(k); utf8.RuneCountInString(word) == len(word) && (d >= bestDistance || -d >= bestDistance) {
			continue // so many letters must come or go
		}
		// Two edits turn any word of two letters into any other.
		if d := distance(word, k); d < bestDistance && d < max(len(word), len(k))-1 {
			best, bestDistance = k, d
		}
	}
	return best
}

// DidYouMean returns ` (did you mean "x"?)` for the name that Suggest finds, or "".
func DidYouMean(word string, known []string) string {
	if s := Suggest(word, known); s != "" {
		return fmt.Sprintf(" (did you mean %q?)", s)
	}
	return ""
}

// distance is the optimal string alignment distance between a and b, in three rows.
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	older, old, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range old {
		old[j] = j
	}
	for i := 1; i <= len(x); i++ {
		row[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			row[j] = min(old[j]+1, row[j-1]+1, old[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], older[j-2]+1)
			}
		}
		older, old, row = old, row, older
	}
	return old[len(y)]
}
