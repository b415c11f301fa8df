package config

import "fmt"

// suggest returns " (did you mean X?)" for the candidate that found is most
// likely a misspelling of, or nothing.
func suggest(found string, candidates []string) string {
	const longest, most = 64, 1024 // what is worth the time
	if len(found) > longest {
		return ""
	}
	best, bestDistance := "", max(1, len(found)/3)+1
	for _, c := range candidates[:min(len(candidates), most)] {
		if len(c) > longest {
			continue
		}
		if d := distance(found, c); d < bestDistance || d == bestDistance && best != "" && c < best {
			best, bestDistance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (did you mean %q?)", best)
}

// distance is how many insertions, deletions, substitutions and swaps of
// neighbours turn a into b (optimal string alignment), counted in bytes.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			substitute := last[j-1]
			if a[i-1] != b[j-1] {
				substitute++
			}
			row[j] = min(substitute, last[j]+1, row[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
