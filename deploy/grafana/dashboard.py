#!/usr/bin/env python3
"""Writes keybroker.json, the Grafana dashboard, beside this file.

The JSON is generated, never edited: `make lint` fails if the two differ. It is
kept pretty-printed, since TiUP rewrites "test-cluster" and "${DS_TEST-CLUSTER}"
line by line and greedily.
"""
import json
import pathlib
import sys

SOURCE = "${DS_TEST-CLUSTER}"
WHERE = 'k8s_cluster="$k8s_cluster",tidb_cluster="$tidb_cluster",instance=~"$instance"'


def target(expr, legend):
    return {"expr": expr.replace("{}", "{" + WHERE + "}").replace("{,", "{" + WHERE + ","),
            "legendFormat": legend, "refId": None}


def panel(title, description, unit, targets, kind="timeseries"):
    return {"title": title, "description": description, "type": kind, "datasource": SOURCE,
            "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
            "targets": [dict(t, refId=chr(ord("A") + i)) for i, t in enumerate(targets)]}


ROWS = [
    ("At a glance", [
        panel("Up", "1 while the broker answers.", "none", [target('up{job="keybroker"}', "{{instance}}")]),
        panel("Outage runway", "How long each key can be served if every KMS of it vanishes now.", "s",
              [target("keybroker_outage_runway_seconds{}", "{{instance}} {{key}}")]),
        panel("Backends up", "Whether the last call to each KMS got an answer.", "none",
              [target("keybroker_backend_up{}", "{{instance}} {{backend}}")]),
        panel("Refused calls", "Calls of peers that have no right to what they asked for.", "ops",
              [target('sum by (instance, method) (rate(keybroker_requests_total{,code="PERMISSION_DENIED"}[$__rate_interval]))', "{{instance}} {{method}}")]),
    ]),
    ("Calls", [
        panel("Calls", "Calls by method and outcome.", "ops",
              [target("sum by (method, code) (rate(keybroker_requests_total{}[$__rate_interval]))", "{{method}} {{code}}")]),
        panel("Latency, p99", "Audit record included.", "s",
              [target("histogram_quantile(0.99, sum by (le, method) (rate(keybroker_request_duration_seconds_bucket{}[$__rate_interval])))", "{{method}}")]),
        panel("Calls by client", "Who asks.", "ops",
              [target("sum by (client) (rate(keybroker_requests_total{}[$__rate_interval]))", "{{client}}")]),
    ]),
    ("Cache", [
        panel("Lookups", "Intermediate keys looked for.", "ops",
              [target("sum by (key, result) (rate(keybroker_cache_requests_total{}[$__rate_interval]))", "{{key}} {{result}}")]),
        panel("Entries", "Intermediate keys in locked memory.", "none",
              [target("keybroker_cache_entries{}", "{{instance}}")]),
        panel("Degraded envelopes", "Wrapped keys made that lack some of their key's master keys.", "ops",
              [target("sum by (key) (rate(keybroker_envelopes_degraded_total{}[$__rate_interval]))", "{{key}}")]),
    ]),
    ("Backends", [
        panel("KMS calls", "By backend, operation and class.", "ops",
              [target("sum by (backend, op, class) (rate(keybroker_backend_requests_total{}[$__rate_interval]))", "{{backend}} {{op}} {{class}}")]),
        panel("KMS latency, p99", "By backend and operation.", "s",
              [target("histogram_quantile(0.99, sum by (le, backend, op) (rate(keybroker_backend_request_duration_seconds_bucket{}[$__rate_interval])))", "{{backend}} {{op}}")]),
        panel("Breakers", "0: the backend is asked; 1: one call tries it again; 2: it is not asked.", "none",
              [target("keybroker_backend_breaker_state{}", "{{instance}} {{backend}}")]),
        panel("Master keys", "1: usable when last checked.", "none",
              [target("keybroker_kek_usable{}", "{{instance}} {{key}} {{backend}} {{kek}}")]),
        panel("Hedges", "Recipients asked beside one that was slow.", "ops",
              [target("sum by (key) (rate(keybroker_hedges_total{}[$__rate_interval]))", "{{key}}")]),
    ]),
    ("Audit", [
        panel("Records", "Audit records written.", "ops",
              [target("sum by (event, outcome) (rate(keybroker_audit_records_total{}[$__rate_interval]))", "{{event}} {{outcome}}")]),
        panel("Write errors", "While this rises, calls are refused.", "none",
              [target("increase(keybroker_audit_write_errors_total{}[$__rate_interval])", "{{instance}}")]),
        panel("Free space", "Of the log's disk. When it is full, calls are refused.", "bytes",
              [target("keybroker_audit_free_bytes{}", "{{instance}}"),
               target("keybroker_audit_min_free_bytes{}", "{{instance}} warns below")]),
        panel("Sync, p99", "How long it takes to bring records to disk.", "s",
              [target("histogram_quantile(0.99, sum by (le, instance) (rate(keybroker_audit_sync_duration_seconds_bucket{}[$__rate_interval])))", "{{instance}}")]),
    ]),
    ("Process", [
        panel("Resident memory", "Of the process.", "bytes",
              [target('process_resident_memory_bytes{,job="keybroker"}', "{{instance}}")]),
        panel("Goroutines", "They should not grow.", "none",
              [target('go_goroutines{,job="keybroker"}', "{{instance}}")]),
        panel("Configuration", "1 if the last reload succeeded.", "none",
              [target("keybroker_config_last_reload_success{}", "{{instance}}")]),
    ]),
]


def variable(name, label, hide, multi):
    return {"name": name, "label": label, "type": "query", "datasource": SOURCE, "hide": hide,
            "query": f"label_values(keybroker_build_info, {name})", "refresh": 2,
            "multi": multi, "includeAll": multi, "allValue": ".*" if multi else None}


def dashboard():
    panels, y = [], 0
    for title, inside in ROWS:
        placed = []
        for i, p in enumerate(inside):
            placed.append(dict(p, id=None, gridPos={"h": 8, "w": 8, "x": 8 * (i % 3), "y": y + 1 + 8 * (i // 3)}))
        panels.append({"type": "row", "title": title, "collapsed": True, "id": None,
                       "gridPos": {"h": 1, "w": 24, "x": 0, "y": y}, "panels": placed})
        y += 1
    number = 0
    for row in panels:
        for p in [row, *row["panels"]]:
            number += 1
            p["id"] = number
    return {
        "__inputs": [{"name": "DS_TEST-CLUSTER", "label": "test-cluster", "type": "datasource",
                      "pluginId": "prometheus", "pluginName": "Prometheus"}],
        "title": "Test-Cluster-KeyBroker", "uid": "keybroker", "schemaVersion": 38, "version": 1,
        "editable": True, "refresh": "1m", "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [variable("k8s_cluster", "K8s-cluster", 2, False),
                                variable("tidb_cluster", "tidb_cluster", 2, False),
                                variable("instance", "Instance", 0, True)]},
        "panels": panels,
    }


if __name__ == "__main__":
    text = json.dumps(dashboard(), indent=2) + "\n"
    path = pathlib.Path(__file__).with_name("keybroker.json")
    if "--check" in sys.argv:
        sys.exit(0 if path.read_text() == text else f"{path} is not what dashboard.py writes; run it")
    path.write_text(text)
