package cli

import (
	"strings"

	"portico/internal/online"
)

// matchWord finds text among words ("a|b|c") without regard to case, '_' and '-', and gives it as the schema
// spells it: SystemAssigned and system-assigned are system_assigned.
func matchWord(words, text string) (string, bool) {
	for word := range strings.SplitSeq(words, "|") {
		if online.Plain(word) == online.Plain(text) {
			return word, true
		}
	}
	return "", false
}

func didYouMean(typed string, known []string) string {
	if s := online.Nearest(typed, known); s != "" {
		return "; did you mean " + s + "?"
	}
	return ""
}
