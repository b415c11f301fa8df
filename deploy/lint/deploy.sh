#!/usr/bin/env bash
# Checks everything under deploy/ with the tools that will read it. A missing
# tool is an error in CI and a named skip elsewhere.
set -euo pipefail
cd "$(dirname "$0")/../.."
tools=$PWD/.tools

# have TOOL HINT: true if the tool is there.
have() {
	command -v "$1" >/dev/null 2>&1 && return 0
	if [ "${CI:-}" = true ]; then
		echo "deploy: $1 is missing: $2" >&2
		exit 1
	fi
	echo "deploy: SKIP: $1 is missing: $2"
	return 1
}

# promtool comes in Debian's prometheus package; unpacking it is enough.
if ! command -v promtool >/dev/null && [ ! -x "$tools/prometheus/usr/bin/promtool" ] && command -v apt-get >/dev/null; then
	mkdir -p "$tools/prometheus"
	(cd "$tools/prometheus" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } &&
		dpkg -x prometheus_*.deb .) >/dev/null 2>&1 || true
fi
export PATH="$PATH:$tools/prometheus/usr/bin"
if have promtool "apt-get install prometheus"; then
	(cd deploy/prometheus && promtool check rules keybroker.rules.yml && promtool test rules keybroker.rules.test.yml)
fi

if have python3 "apt-get install python3"; then
	python3 deploy/grafana/dashboard.py --check && echo "deploy: keybroker.json is what dashboard.py writes"
	if [ ! -x "$tools/venv/bin/yamllint" ]; then
		python3 -m venv "$tools/venv" && "$tools/venv/bin/pip" install -q "yamllint==${YAMLLINT_VERSION:-1.38.0}" || true
	fi
	export PATH="$PATH:$tools/venv/bin"
	if have yamllint "python3 -m venv needs python3-venv"; then
		yamllint -s -c deploy/lint/yamllint.yaml deploy buf.yaml buf.gen.yaml .golangci.yml && echo "deploy: yamllint is content"
	fi
fi

# The shippers that can be had check their configurations; Fluent Bit and Vector
# cannot, so that theirs are held to their manuals by eye.
"$tools/collector" validate --config deploy/audit/otel-collector.yaml && echo "deploy: the collector takes otel-collector.yaml"
if have rsyslogd "apt-get install rsyslog rsyslog-relp"; then
	# It wants the directories and certificates to exist.
	spool=$(mktemp -d)
	sed -e "s|/var/spool/rsyslog|$spool|" -e 's|/etc/rsyslog.d/keybroker-ca.pem|/dev/null|' deploy/audit/rsyslog.conf >"$spool/rsyslog.conf"
	rsyslogd -N1 -f "$spool/rsyslog.conf"
	rm -r "$spool"
fi

if have systemd-analyze "apt-get install systemd"; then
	# verify wants the programs of the units to exist: point it at ours.
	units=$(mktemp -d)
	trap 'rm -rf "$units"' EXIT
	for unit in deploy/systemd/keybroker.service deploy/systemd/*.socket; do
		sed "s|/usr/bin/keybroker|$(command -v true)|" "$unit" >"$units/$(basename "$unit")"
	done
	systemd-analyze verify --man=no "$units"/*
	systemd-analyze security --offline=true --threshold=15 "$units/keybroker.service" | tail -1
	for dropin in deploy/systemd/persist-*.conf; do
		mkdir -p "$units/keybroker.service.d"
		cp "$dropin" "$units/keybroker.service.d/"
		systemd-analyze verify --man=no "$units"/*.service "$units"/*.socket
		systemd-analyze security --offline=true --threshold=20 "$units/keybroker.service" | tail -1
		rm -r "$units/keybroker.service.d"
	done
fi

(cd deploy/lint/kubernetes && go run . ../../kubernetes/*.yaml)
