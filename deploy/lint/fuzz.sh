#!/usr/bin/env bash
# Runs every fuzz target of the main module, and fails if a package with a target
# has no seeds for it. What reads what others keep or send for years (wrapped keys,
# keyrings, audit lines, the configuration) gets the whole time, the rest a third.
set -euo pipefail
usage="usage: fuzz.sh SECONDS, such as 60s"
[[ ${1:-} =~ ^([0-9]+)s$ ]] || { echo "$usage" >&2; exit 2; }
whole=${BASH_REMATCH[1]}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
fuzz() {
	go test -run '^$' -fuzz "^$2\$" -fuzztime "$3" -fuzzminimizetime 1s "./$1" | tee "$log"
}
found=0
while IFS=: read -r file target; do
	dir=$(dirname "$file")
	if [ -z "$(ls "$dir/testdata/fuzz/$target" 2>/dev/null)" ]; then
		echo "$file: $target has no seeds in $dir/testdata/fuzz/$target" >&2
		exit 1
	fi
	case $dir in
	broker/envelope | backends/file | audit | audit/verify | internal/config) time=${whole}s ;;
	*) time=$(((whole + 2) / 3))s ;;
	esac
	found=$((found + 1))
	echo "fuzz $target in ./$dir for $time"
	fuzz "$dir" "$target" "$time" && continue
	# The end of its time may reach the fuzzer as a failure, without an input that
	# failed (golang.org/issue/75804, mended in Go 1.27).
	if grep -q 'Failing input' "$log" || ! grep -q 'context deadline exceeded' "$log"; then exit 1; fi
	echo "no input failed, its time had ended: once more"
	fuzz "$dir" "$target" "$time"
done < <(git ls-files '*_test.go' | grep -v '^integration/' | xargs grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's/:func /:/')
[ "$found" -gt 0 ] || { echo "no fuzz target found" >&2; exit 1; }
