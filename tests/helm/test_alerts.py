"""Alert rules: the chart has what `helm/write_chart.py` makes, Prometheus reads them, and each of them fires."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm/attractor/files/rules.yaml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: it comes with Prometheus")
LABELS = 'job="a/RELEASE",instance="one"'

FAULTS: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "AttractorShardDown": ("5m", [("up", "0x10")]),
    "AttractorGroupsUnowned": ("5m", [("attractor_ownership_groups", "63x10")]),
    "AttractorStoreFailing": ("10m", [("attractor_store_failures_total", "0x5 1x10")]),
    "AttractorImagesDamaged": ("10m", [("attractor_images_damaged_total", "0x5 1x10")]),
    "AttractorLeaseOld": ("5m", [("attractor_lease_age_seconds", "11x10")]),
    "AttractorInternalErrors": (
        "10m",
        [('attractor_requests_total,reason="INTERNAL",operation="query"', "0x5 1x10")],
    ),
    "AttractorQueueFull": (
        "15m",
        [("attractor_queue_patterns", "900x20"), ("attractor_queue_limit_patterns", "1000x20")],
    ),
    "AttractorBankThrashing": (
        "60m",
        [("attractor_bank_loads_total", "0+60x60"), ('attractor_requests_total,operation="query"', "0+60x60")],
    ),
    "AttractorCommitSlow": (
        "20m",
        [
            ('attractor_commit_duration_seconds_bucket,le="0.256"', "0x30"),
            ('attractor_commit_duration_seconds_bucket,le="0.512"', "0+60x30"),
            ('attractor_commit_duration_seconds_bucket,le="+Inf"', "0+60x30"),
        ],
    ),
    "AttractorCallsHoldMemory": (
        "15m",
        [("attractor_request_bytes", "950x20"), ("attractor_request_limit_bytes", "1000x20")],
    ),
    "AttractorCertificateOverdue": ("70m", [("attractor_tls_certificate_renewal_seconds", "-1x80")]),
    "AttractorRecallsFlat": (
        "10200m",  # a week and two hours
        [
            ('attractor_recall_energy_drop_sum,model="m"', "0+100x10080 1008010+10x200"),
            ('attractor_recall_energy_drop_count,model="m"', "0+10x10280"),
        ],
    ),
}
"""By alert, when it fires, and the series that make it: name, labels, and a value each minute"""


def series(one: tuple[str, str]) -> dict[str, str]:
    name, _, more = one[0].partition(",")
    return {"series": f"{name}{{{LABELS}{',' if more else ''}{more}}}", "values": one[1]}


def test_the_files_of_the_chart_are_fresh() -> None:
    run = subprocess.run(
        [sys.executable, str(ROOT / "helm/write_chart.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_there_is_a_fault_for_each_alert() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    assert [rule["alert"] for rule in rules] == list(FAULTS)


@needs_promtool
def test_prometheus_reads_the_rules() -> None:
    assert PROMTOOL is not None
    run = subprocess.run([PROMTOOL, "check", "rules", str(RULES)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@needs_promtool
def test_each_alert_fires_by_its_fault_and_by_no_health(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    tests: list[dict[str, Any]] = []
    for alert, (at, faulty) in FAULTS.items():
        query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
        tests.append(
            {
                "interval": "1m",
                "input_series": [series(one) for one in faulty],
                "promql_expr_test": [
                    {"expr": query, "eval_time": "0m", "exp_samples": []},
                    {"expr": query, "eval_time": at, "exp_samples": [{"value": 1}]},
                ],
            }
        )
    file = tmp_path / "alerts.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    run = subprocess.run([PROMTOOL, "test", "rules", str(file)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
