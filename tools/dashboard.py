"""Write the Grafana dashboard that the chart can install: panels over the metrics of docs/observability.md."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DASHBOARD = ROOT / "charts" / "sftjob-operator" / "dashboards" / "sftjob.json"
COLUMNS = 24
"""Width of a dashboard in Grafana's grid units."""
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
RUN = "{{job_namespace}}/{{job_name}}"
CHOSEN = 'job_namespace=~"$job_namespace", job_name=~"$job_name"'
"""The jobs selected by the dashboard's variables."""
BY_JOB = "job_namespace, job_name"
RUNNING = f'and on ({BY_JOB}) sftjob_job_info{{phase="Running"}}'


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One panel; `queries` are PromQL expressions and the legends of their series."""

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    stacked: bool = False


def chosen(metric: str, *further: str) -> str:
    """A metric of the selected jobs."""
    return f"{metric}{{{', '.join((CHOSEN, *further))}}}"


def latency(quantile: float) -> str:
    """The given quantile of reconcile durations, in seconds."""
    buckets = "rate(sftjob_reconcile_duration_seconds_bucket[$__rate_interval])"
    return f"histogram_quantile({quantile}, sum by (le) ({buckets}))"


TRAINED = chosen("sftjob_job_time_seconds", 'use="training"')
RAN = chosen("sftjob_job_time_seconds", 'use!="queued"')
ROWS: dict[str, tuple[Panel, ...]] = {
    "Jobs": (
        Panel(
            title="Jobs by phase",
            description="All SFTJobs.",
            queries=(("sum by (phase) (sftjob_jobs)", "{{phase}}"),),
            stacked=True,
        ),
        Panel(
            title="Why jobs failed",
            description="Failed SFTJobs by reason; docs/failures.md describes each reason.",
            queries=(('sum by (reason) (sftjob_jobs{phase="Failed"})', "{{reason}}"),),
            stacked=True,
        ),
        Panel(
            title="Why jobs wait",
            description="SFTJobs that are not running yet, or are suspended or waiting.",
            queries=(
                (
                    'sum by (phase, reason) (sftjob_jobs{phase!~"Running|Succeeded|Failed"})',
                    "{{phase}}: {{reason}}",
                ),
            ),
            stacked=True,
        ),
    ),
    "Runs": (
        Panel(
            title="Progress",
            description="Completed share of the optimizer steps of the run.",
            queries=((f"{chosen('sftjob_job_step')} / {chosen('sftjob_job_max_steps')}", RUN),),
            unit="percentunit",
        ),
        Panel(
            title="Loss",
            description="Mean training loss of the last logging window, and the latest evaluation loss.",
            queries=(
                (chosen("sftjob_job_loss"), RUN),
                (chosen("sftjob_job_eval_loss"), f"{RUN} evaluation"),
            ),
        ),
        Panel(
            title="Time left",
            description="Estimated time to the last step at the current speed.",
            queries=((chosen("sftjob_job_eta_seconds"), RUN),),
            unit="s",
        ),
        Panel(
            title="Tokens per second",
            description="Throughput of the running attempt, summed over all devices.",
            queries=((chosen("sftjob_job_tokens_per_second"), RUN),),
        ),
        Panel(
            title="Model FLOPs utilization",
            description="Model FLOPs as a share of the devices' peak FLOPs. Only for devices whose peak is known.",
            queries=((chosen("sftjob_job_mfu_ratio"), RUN),),
            unit="percentunit",
        ),
        Panel(
            title="Attempts",
            description="Number of training attempts.",
            queries=((chosen("sftjob_job_attempts", 'stage="train"'), RUN),),
        ),
        Panel(
            title="Age of the newest checkpoint",
            description="Training time of running jobs that a crash would lose.",
            queries=((f"time() - {chosen('sftjob_job_checkpoint_timestamp_seconds')} {RUNNING}", RUN),),
            unit="s",
        ),
        Panel(
            title="Since the last report",
            description="Running jobs only. A trainer reports every few seconds.",
            queries=((f"time() - {chosen('sftjob_job_last_report_timestamp_seconds')} {RUNNING}", RUN),),
            unit="s",
        ),
        Panel(
            title="Goodput",
            description="Share of a run's container time that was spent on steps that were kept.",
            queries=((f"sum by ({BY_JOB}) ({TRAINED}) / (sum by ({BY_JOB}) ({RAN}) > 0)", RUN),),
            unit="percentunit",
        ),
        Panel(
            title="Where the time went",
            description="Total time of the selected jobs since their creation, by use.",
            queries=((f"sum by (use) ({chosen('sftjob_job_time_seconds')})", "{{use}}"),),
            unit="s",
            width=COLUMNS,
            kind="bargauge",
        ),
    ),
    "Operator": (
        Panel(
            title="Reconcile duration",
            description="Includes the requests to the API server.",
            queries=((latency(0.5), "p50"), (latency(0.99), "p99")),
            unit="s",
        ),
        Panel(
            title="Reconciles",
            description="All reconciles, and the failed ones by cause.",
            queries=(
                ("sum(rate(sftjob_reconcile_duration_seconds_count[$__rate_interval]))", "all"),
                ("sum by (cause) (rate(sftjob_reconcile_errors_total[$__rate_interval]))", "{{cause}}"),
            ),
            unit="ops",
        ),
        Panel(
            title="API requests",
            description='By verb and response code. Code "none": no response.',
            queries=(("sum by (verb, code) (rate(sftjob_api_requests_total[$__rate_interval]))", "{{verb}} {{code}}"),),
            unit="reqps",
        ),
        Panel(
            title="Queue, and jobs without series",
            description="Jobs waiting for a worker, and jobs without per-job series.",
            queries=(("max(sftjob_workqueue_depth)", "waiting"), ("max(sftjob_jobs_left_out)", "left out")),
        ),
        Panel(
            title="Age of the older watch",
            description="Time since the API server last responded. The operator restarts at 900 s.",
            queries=(("max(sftjob_watch_age_seconds)", "age"),),
            unit="s",
        ),
        Panel(
            title="Memory",
            description="Resident memory of the operator.",
            queries=(("process_resident_memory_bytes and on (job, instance) sftjob_workqueue_depth", "resident"),),
            unit="bytes",
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's import format."""
    return {
        "uid": "sftjob",
        "title": "SFTJobs",
        "description": "Supervised fine-tuning: the jobs, their runs, and the operator.",
        "tags": ["sftjob"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source(), *map(_variable, ("job_namespace", "job_name"))]},
        "panels": list(_panels()),
    }


def _source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(label: str) -> dict[str, Any]:
    """A dashboard variable with the values of a label."""
    within = '{job_namespace=~"$job_namespace"}' if label == "job_name" else ""
    return {
        "name": label,
        "label": label.removeprefix("job_").capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": f"label_values(sftjob_job_info{within}, {label})",
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in ROWS.items():
        number += 1
        place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        x, y = 0, y + 1
        for panel in panels:
            number += 1
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            yield _panel(panel, number, {"h": HEIGHT, "w": panel.width, "x": x, "y": y})
            x += panel.width
        y += HEIGHT


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit}
    options: dict[str, Any] = {"legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}}
    if panel.stacked:
        defaults["custom"] = {"stacking": {"mode": "normal", "group": "A"}, "fillOpacity": 30}
    if panel.kind == "bargauge":
        options = {"displayMode": "gradient", "orientation": "horizontal", "reduceOptions": {"calcs": ["lastNotNull"]}}
    targets = [
        {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": query, "legendFormat": legend}
        for i, (query, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": targets,
    }


def main() -> None:
    """Write the dashboard."""
    DASHBOARD.parent.mkdir(exist_ok=True)
    DASHBOARD.write_text(json.dumps(dashboard(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
