#!/usr/bin/env bash
# Runs every fuzz target of the main module for the time given, and fails if a
# package with a target has no seeds for it.
set -euo pipefail
time=${1:?usage: fuzz.sh DURATION}
found=0
while IFS=: read -r file target; do
	dir=$(dirname "$file")
	if [ -z "$(ls "$dir/testdata/fuzz/$target" 2>/dev/null)" ]; then
		echo "$file: $target has no seeds in $dir/testdata/fuzz/$target" >&2
		exit 1
	fi
	found=$((found + 1))
	echo "fuzz $target in ./$dir for $time"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$dir"
done < <(git ls-files '*_test.go' | grep -v '^integration/' | xargs grep -HoE '^func Fuzz[A-Za-z0-9_]+' | sed 's/:func /:/')
[ "$found" -gt 0 ] || { echo "no fuzz target found" >&2; exit 1; }
