#!/usr/bin/env bash
# Figures of one run, on this machine: the binary's size, the
# time to ready and the memory of an idle broker, and a cached unwrap against a
# call that does nothing on the same connection. Quote the ratios.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${KEYBROKER_BIN:-$PWD/bin/keybroker}
work=$(mktemp -d)
trap 'kill "${pid:-}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
(cd integration && go build -o "$work/latency" ./latency)

echo "binary: $(stat -c %s "$bin") bytes"
"$bin" dev --dir "$work/dev" --admin '' --aws '' >"$work/out" 2>"$work/err" &
pid=$!
for _ in $(seq 1000); do
	if grep -q 'is ready' "$work/out"; then break; fi
	kill -0 "$pid" 2>/dev/null || { cat "$work/err" >&2; exit 1; }
	sleep 0.01
done
sleep 2 # idle
echo "start: $(grep -o 'ready after [0-9.]* *[a-zµ]*' "$work/out")"
echo "memory: $(awk '/^VmRSS/ {print $2, $3}' "/proc/$pid/status") resident when idle"
"$work/latency" -socket "$work/dev/keybroker.sock"
