from collections import Counter

import pytest

from bench.operator.operator_bench import TARGET, Result, columns, measure
from bench.operator.reports_bench import Cost, measure_reports, measure_resync, rows
from bench.operator.resync import RESYNCS
from bench.operator.trainers import Measurement
from bench.pages import END, begin, replace_section, section


def a_result(jobs: int, **requests: int) -> Result:
    return Result(
        jobs=jobs,
        requests=Counter({what.replace("__", " ").replace("_status", "/status"): n for what, n in requests.items()}),
        pod_p50_seconds=0.025,
        pod_p99_seconds=1.5,
        burst_seconds=2.0,
        cpu_seconds=0.4,
        resident_bytes=90_000_000,
        recovery_p50_seconds=1.1,
        recovery_p99_seconds=1.25,
        first_decision_seconds=2.5,
        last_decision_seconds=4.5,
    )


def test_requests_are_told_per_job_and_children_are_summed() -> None:
    result = a_result(2, create__pods=4, create__configmaps=2, list__pods=2, patch__sftjobs_status=8, watch__sftjobs=1)
    assert result.child_requests == 4
    assert result.status_writes == 4


def test_the_table_has_one_column_per_size_and_a_row_for_every_verb_that_any_size_saw() -> None:
    header, rows = columns([a_result(1, create__pods=2), a_result(1000, create__pods=2000, watch__pods=1)])
    assert header == ["", "1 jobs", "1,000 jobs"]
    assert rows[0] == ["`create pods` per job", "2.00", "2.00"]
    assert rows[1] == ["`watch pods` per job", "0.00", "0.00"]
    assert ["create to first Pod, p99", "1,500 ms", "1,500 ms"] in rows
    assert ["operator CPU per job", "400.0 ms", "0.4 ms"] in rows
    assert ["trainer's death to next Pod, p99", "1.25 s", "1.25 s"] in rows
    assert ["operator resident memory", "90 MB", "90 MB"] in rows


def test_only_the_section_between_the_markers_is_replaced() -> None:
    new = section(TARGET, "2 cores", ["", "1 jobs"], [["status writes per job", "4.00"]])
    page = f"# Title\n\n{begin(TARGET)}\nold\n{END}\n\nMore.\n"
    replaced = replace_section(page, new)
    assert replaced == f"# Title\n\n{new}\n\nMore.\n"
    assert "| status writes per job | 4.00 |" in replaced
    assert "old" not in replaced
    assert replace_section(replaced, new) == replaced


@pytest.mark.slow
def test_a_quiet_job_costs_four_creates_one_read_and_one_status_write_per_change_of_phase() -> None:
    result = measure(3, pace=0.05)
    requests = {what: n / result.jobs for what, n in result.requests.items() if what != "create events"}
    assert requests.pop("patch sftjobs/status") <= 4, "Pending, Preparing, Running, Succeeded"
    creates = {"create persistentvolumeclaims": 1, "create configmaps": 1, "create pods": 2}
    assert requests == creates | {"get configmaps": 1}, (
        "the ConfigMap is read before training, to be brought up to date"
    )
    assert result.resident_bytes < 150e6
    assert 0 < result.recovery_p50_seconds <= result.recovery_p99_seconds
    assert 0 < result.first_decision_seconds <= result.last_decision_seconds


def test_a_report_that_was_refused_or_lost_is_in_the_table_and_not_among_the_answers() -> None:
    reports = Measurement(
        answer_seconds=(0.01, 0.02, 0.3),
        refused={"429": 2, "TimeoutError": 1},
        answered=6,
        late_seconds=(0.0,) * 6,
        operator_cpu_seconds=0.03,
        server_cpu_seconds=0.024,
        trainers_cpu_seconds=0.012,
        busy_cores=1.5,
    )
    table = rows([Cost(reports=reports, jobs_cpu_seconds=[2.0, 1.5], pods_cpu_seconds=[4.0, 3.5])])
    assert ["accepted reports", "3"] in table
    assert ["other outcomes", "2 x 429, 1 x TimeoutError"] in table
    assert ["answer to a report, p99", "300 ms"] in table
    assert ["CPU per report, operator", "5.00 ms"] in table
    assert ["CPU per report, API server and node", "4.00 ms"] in table
    assert ["CPU per report, trainers", "2.00 ms"] in table
    assert ["resync beside the finished jobs, CPU", "1.50 s"] in table


@pytest.mark.slow
def test_every_trainer_reports_and_every_report_is_accepted() -> None:
    reports = measure_reports(None, 2, interval_seconds=1.0, window_seconds=3.0, keep_alive=True)
    assert not reports.refused
    assert len(reports.answer_seconds) == len(reports.late_seconds) == 6
    assert reports.operator_cpu_seconds > 0


@pytest.mark.slow
def test_finished_jobs_and_their_pods_are_listed_at_each_resync() -> None:
    spent = measure_resync(None, 5, with_pods=True)
    assert len(spent) == RESYNCS
    assert min(spent) > 0
