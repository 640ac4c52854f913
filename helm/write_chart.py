"""Write the board for Grafana, the alert rules for Prometheus and the chart's README. `--check` only compares."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]
from values_table import MARK, make_table

CHART: Final = Path(__file__).parent / "attractor"

FILES: Final = CHART / "files"

JOB: Final = 'job=~".*RELEASE"'
"""The jobs that are watched; the chart puts the name of its release there"""

WIDTH, HEIGHT, COLUMNS = 8, 7, 3


def rate(metric: str, by: str = "", window: str = "$__rate_interval") -> str:
    """Return the expression of a counter's rate, summed."""
    return f"sum by ({by}) (rate(attractor_{metric}[{window}]))"


def quantile(metric: str, by: str, part: float = 0.99, window: str = "$__rate_interval") -> str:
    """Return the expression of a histogram's quantile."""
    both = f"le, {by}" if by else "le"
    return f"histogram_quantile({part}, sum by ({both}) (rate(attractor_{metric}_bucket[{window}])))"


def mean(metric: str, by: str, window: str = "$__rate_interval", *, only: str = "", then: str = "") -> str:
    """Return the expression of a histogram's mean; `then` is when, if not now."""
    total, count = (
        f"sum by ({by}) (rate(attractor_{metric}_{part}{only}[{window}]{then}))" for part in ("sum", "count")
    )
    return f"({total} / {count})"


ROWS: Final[Mapping[str, Sequence[tuple[str, str, str, str]]]] = {
    "Traffic and errors": [
        ("Requests", "reqps", rate("requests_total", "operation"), "{{operation}}"),
        ("Failures, by reason", "reqps", rate('requests_total{reason!="OK"}', "reason"), "{{reason}}"),
        ("Patterns computed", "ops", rate("patterns_total", "operation"), "{{operation}}"),
        ("Sessions", "none", "sum by (instance) (attractor_sessions)", "{{instance}}"),
        ("Passed on to other shards", "reqps", rate("forwarded_total", "kind"), "{{kind}}"),
        (
            "Memory of calls, of what they may hold",
            "percentunit",
            "attractor_request_bytes / attractor_request_limit_bytes",
            "{{instance}}",
        ),
    ],
    "Latency": [
        ("Requests, p99", "s", quantile("request_duration_seconds", "operation"), "{{operation}}"),
        ("Requests, median", "s", quantile("request_duration_seconds", "operation", 0.5), "{{operation}}"),
        ("Wait for the engine, p99", "s", quantile("queue_duration_seconds", "operation"), "{{operation}}"),
        ("Batch, p99", "s", quantile("batch_duration_seconds", "operation"), "{{operation}}"),
        ("Commit, p99", "s", quantile("commit_duration_seconds", "backend"), "{{backend}}"),
        ("Artifact store, p99", "s", quantile("artifact_duration_seconds", "call"), "{{call}}"),
    ],
    "Engine": [
        ("Engine busy", "percentunit", rate("engine_busy_seconds_total", "instance"), "{{instance}}"),
        ("Patterns in a batch", "none", mean("batch_patterns", "operation"), "{{operation}}"),
        ("Memories in a batch", "none", mean("batch_memories", "operation"), "{{operation}}"),
        (
            "Queue, of what may wait",
            "percentunit",
            "attractor_queue_patterns / attractor_queue_limit_patterns",
            "{{instance}}",
        ),
        ("Namespaces that wait", "none", "attractor_queue_namespaces", "{{instance}}"),
        ("Changes in a commit", "none", mean("commit_memories", "backend"), "{{backend}}"),
    ],
    "Banks": [
        (
            "Pages, of those with room",
            "percentunit",
            "attractor_bank_pages / attractor_bank_capacity_pages",
            "{{instance}} {{model}}",
        ),
        ("Pages that came and left", "ops", rate("bank_loads_total", "model"), "{{model}} came"),
        ("Pages that left", "ops", rate("bank_evictions_total", "model"), "{{model}} left"),
        ("Size of banks", "bytes", "sum by (model) (attractor_bank_bytes)", "{{model}}"),
        ("Size of page files", "bytes", "sum by (model) (attractor_page_file_bytes)", "{{model}}"),
        ("Memories restored", "ops", rate("restores_total", "model"), "{{model}}"),
    ],
    "Ownership and the store": [
        ("Groups of slots owned", "none", "attractor_ownership_groups", "{{instance}}"),
        ("Epoch of the topology", "none", "attractor_topology_epoch", "{{instance}}"),
        ("Age of the lease", "s", "attractor_lease_age_seconds", "{{instance}}"),
        ("Groups moved", "ops", rate("moves_total", "instance"), "{{instance}}"),
        ("Store failures", "ops", rate("store_failures_total", "backend"), "{{backend}}"),
        ("Damaged images", "ops", rate("images_damaged_total", "backend"), "{{backend}}"),
    ],
    "Tenants": [
        ("Patterns, by namespace", "ops", f"topk(10, {rate('tenant_patterns_total', 'tenant')})", "{{tenant}}"),
        ("Refused, by namespace", "ops", f"topk(10, {rate('tenant_refused_total', 'tenant')})", "{{tenant}}"),
        ("Memories at hand", "none", "attractor_memories", "{{instance}}"),
        ("Memories that expired", "ops", rate("memories_expired_total", "instance"), "{{instance}}"),
        (
            "Held back or refused by quotas, by namespace",
            "ops",
            f"topk(10, {rate('tenant_limited_total', 'tenant')})",
            "{{tenant}}",
        ),
        (
            "Quotas used, by namespace",
            "percentunit",
            "topk(10, max by (tenant, quota) (attractor_tenant_used_ratio))",
            "{{tenant}} {{quota}}",
        ),
        ("Handles", "none", "attractor_handles", "{{instance}}"),
        ("Upstreams", "none", "attractor_upstreams", "{{instance}}"),
    ],
    "Recalls": [
        ("Energy that a recall loses, mean", "none", mean("recall_energy_drop", "model"), "{{model}}"),
        ("Probability of a kept pattern, mean", "percentunit", mean("recall_probability", "model"), "{{model}}"),
        (
            "Distance to the nearest kept pattern, median",
            "none",
            quantile("recall_distance", "model", 0.5),
            "{{model}}",
        ),
        (
            "Recalls that lose none",
            "percentunit",
            'sum by (model) (rate(attractor_recall_energy_drop_bucket{le="0.0"}[$__rate_interval])) / '
            + rate("recall_energy_drop_count", "model"),
            "{{model}}",
        ),
    ],
    "Process": [
        ("Resident memory", "bytes", "process_resident_memory_bytes", "{{instance}}"),
        ("Processor", "percentunit", "rate(process_cpu_seconds_total[$__rate_interval])", "{{instance}}"),
        ("Open files", "none", "process_open_fds", "{{instance}}"),
    ],
}
"""Panels of each row: title, unit, expression and legend"""

PATTERN_REQUESTS: Final = (
    f'sum by (instance) (rate(attractor_requests_total{{{JOB},operation=~"store|erase|query|recognize"}}[10m]))'
)
COMMITS: Final = f"rate(attractor_commit_duration_seconds_bucket{{{JOB}}}[5m])"
DROP_NOW: Final = mean("recall_energy_drop", "job, model", "1h", only=f"{{{JOB}}}")
DROP_THEN: Final = mean("recall_energy_drop", "job, model", "1h", only=f"{{{JOB}}}", then=" offset 1w")

ALERTS: Final[Sequence[tuple[str, str, str, str, str]]] = [
    ("AttractorShardDown", f"up{{{JOB}}} == 0", "2m", "critical", "Prometheus does not reach {{ $labels.instance }}."),
    (
        "AttractorGroupsUnowned",
        f"sum by (job) (attractor_ownership_groups{{{JOB}}}) < 64",
        "1m",
        "critical",
        "Only {{ $value }} of 64 groups of slots have an owner: the memories of the others are not served.",
    ),
    (
        "AttractorStoreFailing",
        f"increase(attractor_store_failures_total{{{JOB}}}[5m]) > 0",
        "1m",
        "critical",
        "The store of {{ $labels.instance }} does not take transactions: stores and erases fail.",
    ),
    (
        "AttractorImagesDamaged",
        f"increase(attractor_images_damaged_total{{{JOB}}}[15m]) > 0",
        "0m",
        "critical",
        "{{ $labels.instance }} read an image of a page that is damaged or gone.",
    ),
    (
        "AttractorLeaseOld",
        f"attractor_lease_age_seconds{{{JOB}}} > 10",
        "30s",
        "critical",
        "{{ $labels.instance }} has not reached the store for {{ $value }} s, and answers no queries.",
    ),
    (
        "AttractorInternalErrors",
        f'sum by (job, operation) (increase(attractor_requests_total{{{JOB},reason="INTERNAL"}}[5m])) > 0',
        "0m",
        "warning",
        "A {{ $labels.operation }} met an error that nobody foresaw; the log says more.",
    ),
    (
        "AttractorQueueFull",
        f"attractor_queue_patterns{{{JOB}}} / attractor_queue_limit_patterns > 0.8",
        "10m",
        "warning",
        "More is asked of {{ $labels.instance }} than it computes.",
    ),
    (
        "AttractorBankThrashing",
        f"sum by (instance) (rate(attractor_bank_loads_total{{{JOB}}}[10m])) > 0.5 * {PATTERN_REQUESTS}",
        "30m",
        "warning",
        "Every other request to {{ $labels.instance }} has to read a page first.",
    ),
    (
        "AttractorCommitSlow",
        f"histogram_quantile(0.99, sum by (le, instance) ({COMMITS})) > 0.25",
        "10m",
        "warning",
        "One in a hundred commits of {{ $labels.instance }} takes more than {{ $value }} s.",
    ),
    (
        "AttractorCallsHoldMemory",
        f"attractor_request_bytes{{{JOB}}} / attractor_request_limit_bytes > 0.9",
        "10m",
        "warning",
        "Calls to {{ $labels.instance }} hold nearly all the memory that they may.",
    ),
    (
        "AttractorCertificateOverdue",
        f"attractor_tls_certificate_renewal_seconds{{{JOB}}} < 0",
        "1h",
        "warning",
        "The certificate of {{ $labels.instance }} has not been renewed and will expire.",
    ),
    (
        "AttractorRecallsFlat",
        f"{DROP_NOW} < 0.5 * {DROP_THEN}",
        "1h",
        "warning",
        "Recalls of model {{ $labels.model }} lose less than half of the energy that they lost a week ago.",
    ),
]
"""Name, expression, how long it has to hold, severity, and a sentence"""


def make_board() -> Mapping[str, Any]:
    """Return the board: a row for each part of the server, its panels side by side."""
    panels: list[Mapping[str, Any]] = []
    top = 0
    for row, members in ROWS.items():
        place = {"h": 1, "w": WIDTH * COLUMNS, "x": 0, "y": top}
        panels.append({"id": len(panels) + 1, "type": "row", "title": row, "gridPos": place, "panels": []})
        top += 1
        for at, (title, unit, expression, legend) in enumerate(members):
            x, y = WIDTH * (at % COLUMNS), top + HEIGHT * (at // COLUMNS)
            panels.append(
                {
                    "id": len(panels) + 1,
                    "type": "timeseries",
                    "title": title,
                    "datasource": {"type": "prometheus", "uid": "${datasource}"},
                    "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                    "gridPos": {"h": HEIGHT, "w": WIDTH, "x": x, "y": y},
                    "targets": [{"refId": "A", "expr": expression, "legendFormat": legend}],
                }
            )
        top += HEIGHT * -(-len(members) // COLUMNS)
    return {
        "title": "Attractor",
        "uid": "attractor",
        "schemaVersion": 39,
        "refresh": "30s",
        "tags": ["attractor"],
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }


def make_rules() -> Mapping[str, Any]:
    """Return the alert rules, as Prometheus reads them."""
    rules = [
        {
            "alert": name,
            "expr": expression,
            "for": held,
            "labels": {"severity": severity},
            "annotations": {"summary": summary},
        }
        for name, expression, held, severity, summary in ALERTS
    ]
    return {"groups": [{"name": "attractor", "rules": rules}]}


def render() -> Mapping[Path, str]:
    """Return the content of each file."""
    return {
        FILES / "board.json": json.dumps(make_board(), indent=1) + "\n",
        FILES / "rules.yaml": "# Made by helm/write_chart.py\n"
        + yaml.safe_dump(make_rules(), sort_keys=False, width=1000),
        CHART / "README.md": (CHART / "README.md.gotmpl")
        .read_text()
        .replace(MARK, make_table((CHART / "values.yaml").read_text())),
    }


def main() -> None:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    checks = parser.parse_args().check
    for path, content in render().items():
        if not checks:
            path.parent.mkdir(exist_ok=True)
            path.write_text(content)
        elif not path.exists() or path.read_text() != content:
            sys.exit(f"{path} is out of date: run helm/write_chart.py")


if __name__ == "__main__":
    main()
