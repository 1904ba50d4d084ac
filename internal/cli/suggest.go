package cli

import (
	"slices"
	"strings"
)

// matchWord finds text among words ("a|b|c") without regard to case, '_' and '-', and gives it as the schema
// spells it: SystemAssigned and system-assigned are system_assigned.
func matchWord(words, text string) (string, bool) {
	for word := range strings.SplitSeq(words, "|") {
		if plain(word) == plain(text) {
			return word, true
		}
	}
	return "", false
}

func plain(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(s))
}

// nearest is the known name that a mistyped one most likely means, or "".
func nearest(typed string, known []string) string {
	best, bestDistance := "", max(2, len(typed)/3)+1
	for _, k := range known {
		if plain(k) == plain(typed) {
			return k
		}
		if d := distance(strings.ToLower(typed), k); d < bestDistance && d < len(k) {
			best, bestDistance = k, d
		}
	}
	return best
}

func didYouMean(typed string, known []string) string {
	if s := nearest(typed, known); s != "" {
		return "; did you mean " + s + "?"
	}
	return ""
}

// distance is the number of insertions, deletions, replacements and swaps of neighbours between two words.
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = slices.Min([]int{prev[j] + 1, cur[j-1] + 1, prev[j-1] + cost})
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
