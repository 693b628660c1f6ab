"""A job's directory is its own: another job's files are neither resumed from, nor overwritten, nor deleted."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Barrier, Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sftjob_contract import layout
from sftjob_contract.codec import from_json, to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import ENV_VOLUME, ENV_VOLUME_URI, Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import ExistingContent, JobReference
from sftjob_trainer.output.export import write_run_config
from sftjob_trainer.process import ownership
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.ownership import JobDirectory
from sftjob_trainer.run.checkpoints import CheckpointStore
from support.trainer.entry import ending
from support.trainer.preparing import Workbench
from support.trainer.tiny import run_config

OURS = JobReference(namespace="default", name="demo", uid="2222-new")
THEIRS = JobReference(namespace="default", name="demo", uid="1111-old")
MOVE_ASIDE = ExistingContent.MOVE_ASIDE
CONFIG = run_config(model="/m", dataset="/d")


def claimed(path: Path, job: JobReference = OURS, *, whole: bool = False) -> JobDirectory:
    return JobDirectory(path=path, job=job, uri="pvc://team" if whole else "pvc://team/demo")


def snapshot(root: Path) -> dict[str, bytes | str]:
    """Every file below `root`, and every link."""
    found = (path for path in root.rglob("*") if path.is_symlink() or path.is_file())
    return {
        path.relative_to(root).as_posix(): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in found
    }


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def left_by(job: JobReference, path: Path) -> Path:
    """What a run of `job` leaves in its directory."""
    claimed(path, job).claim(None)
    (path / "checkpoints" / "checkpoint-40").mkdir(parents=True)
    (path / "checkpoints" / "checkpoint-40" / "model.safetensors").write_bytes(b"weights")
    return path


def left_before_owner_files(job: JobReference, path: Path) -> Path:
    """The same of a release that wrote no owner file."""
    write_run_config(replace(CONFIG, job=job), path)
    (path / "checkpoints").mkdir()
    return path


def a_link(path: Path) -> Path:
    target = left_by(THEIRS, path.with_name("other"))
    path.symlink_to(target.name)
    return path


def a_link_to_nothing_of_others(path: Path) -> Path:
    path.with_name("elsewhere").mkdir()
    path.symlink_to("elsewhere")
    return path


def a_file(path: Path) -> Path:
    path.write_text("not a directory")
    return path


def with_owner_file(content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.mkdir()
        (path / layout.OWNER).write_bytes(content)
        return path

    return make


def with_owner_directory(path: Path) -> Path:
    (path / layout.OWNER).mkdir(parents=True)
    return path


def with_owner_link(path: Path) -> Path:
    left_by(OURS, path.with_name("mine"))
    path.mkdir()
    (path / layout.OWNER).symlink_to(path.with_name("mine") / layout.OWNER)
    return path


def with_pipe_as_owner(path: Path) -> Path:
    path.mkdir()
    os.mkfifo(path / layout.OWNER)
    return path


def unknown_files(path: Path) -> Path:
    (path / "data").mkdir(parents=True)
    (path / "data" / "rows.jsonl").write_text("{}")
    return path


FOREIGN = {
    "another run": (lambda path: left_by(THEIRS, path), "it belongs to SFTJob default/demo (uid 1111-old), since 20"),
    "another run of a release before": (
        lambda path: left_before_owner_files(THEIRS, path),
        "it belongs to SFTJob default/demo (uid 1111-old), since 20",
    ),
    "files of nobody": (unknown_files, "it has files that this job did not write: data"),
    "a link to another run": (a_link, "it is a symbolic link and not a directory"),
    "a link to an empty directory": (a_link_to_nothing_of_others, "it is a symbolic link and not a directory"),
    "a file": (a_file, "it is a file and not a directory"),
    "an empty owner file": (with_owner_file(b""), "sftjob-owner.json is not what a trainer writes"),
    "an owner file of bytes": (with_owner_file(b"\xff\x00" * 9), "sftjob-owner.json is not what a trainer writes"),
    "an owner file without an end": (
        with_owner_file(to_json(ownership.Owner(version=1, job=OURS)).encode() + b" " * 10_000),
        "sftjob-owner.json is not what a trainer writes",
    ),
    "an owner file that is deep": (with_owner_file(b"[" * 4000), "sftjob-owner.json is not what a trainer writes"),
    "an owner with commands to a terminal": (
        with_owner_file(to_json(ownership.Owner(version=1, job=replace(THEIRS, name="a\x1b[2J"))).encode()),
        "sftjob-owner.json is not what a trainer writes",
    ),
    "a directory as owner file": (with_owner_directory, "sftjob-owner.json is a directory"),
    "a link to our own owner file": (with_owner_link, "sftjob-owner.json is a symbolic link"),
    "a pipe as owner file": (with_pipe_as_owner, "sftjob-owner.json is not what a trainer writes"),
}


@pytest.mark.parametrize(("make", "problem"), FOREIGN.values(), ids=FOREIGN)
def test_a_directory_that_is_not_the_job_s_is_refused_and_not_touched(
    tmp_path: Path, make: Callable[[Path], Path], problem: str
) -> None:
    directory = claimed(make(tmp_path / "demo"))
    before = None if "pipe" in problem else snapshot(tmp_path)

    for act in (lambda: directory.claim(None), lambda: directory.claim(ExistingContent.REFUSE), directory.check):
        with pytest.raises(StageError) as raised:
            act()
        assert (raised.value.reason, raised.value.exit_code) == (Reason.CONFIG_INVALID, ExitCode.INVALID)
        message = raised.value.message
        assert message.startswith("pvc://team/demo cannot be used by SFTJob default/demo (uid 2222-new): ")
        assert problem in message
        assert "A new learning rate, model or dataset is a new run" in message
        for way_out in ("metadata.name", "checkpoints.resumeFrom", "storage.existingContent: MoveAside"):
            assert way_out in message
        assert len(message) < 850

    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("make", "problem"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_moved_aside_is_kept_whole_and_the_job_starts_in_an_empty_directory(
    tmp_path: Path, make: Callable[[Path], Path], problem: str
) -> None:
    directory = claimed(make(tmp_path / "demo"))
    if not (tmp_path / "demo").is_dir() or (tmp_path / "demo").is_symlink():
        before = {".": (tmp_path / "demo").readlink() if (tmp_path / "demo").is_symlink() else b""}
    else:
        before = dict(snapshot(tmp_path / "demo"))

    assert directory.moved_aside() is None
    directory.claim(MOVE_ASIDE)
    directory.claim(MOVE_ASIDE)  # a second attempt of the same job moves nothing

    assert names(tmp_path / "demo") == [layout.OWNER]
    aside = tmp_path / "demo.moved-aside-2222-new"
    assert [name for name in names(tmp_path) if "moved-aside" in name] == [aside.name]
    if aside.is_dir() and not aside.is_symlink():
        assert snapshot(aside) == before
    directory.check()
    told = directory.moved_aside() or ""
    assert told.startswith(
        "Files of SFTJob default/demo (uid 1111-old), since 20"
        if problem.startswith("it belongs")
        else "Files that this job did not write at pvc://team/demo were renamed"
    )
    assert told.endswith(
        "at pvc://team/demo were renamed and are now at pvc://team/demo.moved-aside-2222-new "
        "(storage.existingContent: MoveAside)."
    )


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(
    "entries", [(), ("lost+found",), (".snapshot", ".nfs0001"), (f".{layout.OWNER}.12ab",)], ids=str
)
def test_an_empty_directory_becomes_the_job_s(tmp_path: Path, entries: tuple[str, ...], whole: bool) -> None:
    for entry in entries:
        (tmp_path / "demo" / entry).mkdir(parents=True)
    directory = claimed(tmp_path / "demo", whole=whole)
    directory.claim(None)
    directory.claim(None)
    directory.check()
    owner = from_json(ownership.Owner, (tmp_path / "demo" / layout.OWNER).read_bytes(), ignore_unknown=False)
    assert (owner.job, owner.version) == (OURS, 1)
    assert names(tmp_path / "demo") == sorted([*entries, layout.OWNER])


@pytest.mark.parametrize("act", [lambda directory: directory.claim(None), lambda directory: directory.check()])
def test_what_this_job_prepared_with_a_release_before_is_taken_over(
    tmp_path: Path, act: Callable[[JobDirectory], None]
) -> None:
    directory = claimed(left_before_owner_files(OURS, tmp_path / "demo"))
    act(directory)
    assert (tmp_path / "demo" / layout.OWNER).exists()
    assert (tmp_path / "demo" / "checkpoints").is_dir()


def test_training_claims_nothing(tmp_path: Path) -> None:
    claimed(tmp_path / "demo").check()
    assert names(tmp_path) == []


def test_a_directory_whose_name_begins_alike_is_another_one(tmp_path: Path) -> None:
    left_by(THEIRS, tmp_path / "demo-2")
    claimed(tmp_path / "demo").claim(None)
    assert names(tmp_path) == ["demo", "demo-2"]


def test_the_content_of_a_whole_volume_is_moved_into_a_directory_of_it(tmp_path: Path) -> None:
    volume = left_by(THEIRS, tmp_path / "volume")
    (volume / "lost+found").mkdir()
    before = snapshot(volume)
    with pytest.raises(StageError, match=r"^pvc://team cannot be used by"):
        claimed(volume, whole=True).claim(None)

    claimed(volume, whole=True).claim(MOVE_ASIDE)

    assert snapshot(volume / "moved-aside-2222-new") == before
    assert names(volume) == ["lost+found", "moved-aside-2222-new", layout.OWNER]
    told = claimed(volume, whole=True).moved_aside() or ""
    assert "at pvc://team were renamed and are now at pvc://team/moved-aside-2222-new " in told
    third = replace(OURS, uid="3333")
    claimed(volume, third, whole=True).claim(MOVE_ASIDE)
    assert snapshot(volume / "moved-aside-2222-new") == before
    assert set(snapshot(volume / "moved-aside-3333")) == {layout.OWNER}


@pytest.mark.parametrize("after", range(3))
def test_a_move_that_is_broken_off_is_finished_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    volume = left_by(THEIRS, tmp_path / "volume")
    (volume / "logs").mkdir()
    (volume / "logs" / "train.log").write_text("a log")
    before, rename, left = snapshot(volume), Path.rename, [after]

    def broken_off(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken_off)
    with pytest.raises(KeyboardInterrupt):
        claimed(volume, whole=True).claim(MOVE_ASIDE)
    monkeypatch.undo()
    claimed(volume, whole=True).claim(MOVE_ASIDE)

    assert snapshot(volume / "moved-aside-2222-new") == before
    claimed(volume, whole=True).check()


def test_a_name_that_is_taken_is_not_overwritten(tmp_path: Path) -> None:
    left_by(THEIRS, tmp_path / "demo")
    (tmp_path / "demo.moved-aside-2222-new").mkdir()
    claimed(tmp_path / "demo").claim(MOVE_ASIDE)
    assert names(tmp_path / "demo.moved-aside-2222-new") == []
    assert (tmp_path / "demo.moved-aside-2222-new-2" / "checkpoints").is_dir()


def test_an_owner_file_that_is_still_empty_is_read_once_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without hard links the file exists a moment before its text."""
    path = tmp_path / "demo"
    path.mkdir()
    (path / layout.OWNER).touch()
    text = to_json(ownership.Owner(version=1, job=THEIRS))
    monkeypatch.setattr(ownership.time, "sleep", lambda _: (path / layout.OWNER).write_text(text, encoding="utf-8"))
    with pytest.raises(StageError, match=f"it belongs to .*{THEIRS.name}"):
        claimed(path).claim(None)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_of_several_jobs_that_come_at_once_one_gets_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refused(self: Path, target: Path) -> None:
            raise OSError(errno.EPERM, "Operation not permitted", str(self))

        monkeypatch.setattr(Path, "hardlink_to", refused)
    jobs = [replace(OURS, uid=f"uid-{number}") for number in range(8)]
    together, got = Barrier(len(jobs)), []

    def come(job: JobReference) -> None:
        together.wait()
        try:
            claimed(tmp_path / "demo", job).claim(None)
        except StageError:
            return
        got.append(job.uid)

    threads = [Thread(target=come, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    owner = from_json(ownership.Owner, (tmp_path / "demo" / layout.OWNER).read_bytes(), ignore_unknown=False)
    assert got == [owner.job.uid]
    assert names(tmp_path / "demo") == [layout.OWNER]


@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_an_owner_file_holds_the_answer_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "demo"
    path.mkdir(exist_ok=True)
    (path / layout.OWNER).write_bytes(content)
    with pytest.raises(StageError, match=r"sftjob-owner\.json is not what a trainer writes"):
        claimed(path).claim(None)


def test_a_checkpoint_that_another_job_left_behind_late_is_passed_over(tmp_path: Path) -> None:
    def save(job: JobReference, step: int) -> None:
        store = CheckpointStore(tmp_path, keep=2, directory=claimed(tmp_path, job))
        staged = store.staging / layout.checkpoint_name(step)
        staged.mkdir(parents=True)
        (staged / "model.safetensors").write_bytes(b"weights")
        store.seal(step, time="2026-03-01T12:00:00Z", eval_loss=None)

    save(THEIRS, 40)
    (tmp_path / layout.OWNER).unlink(missing_ok=True)
    save(OURS, 5)

    point = CheckpointStore(tmp_path, keep=2, directory=claimed(tmp_path)).open()

    assert point.step == 5
    assert [(skipped.path, skipped.why) for skipped in point.skipped] == [
        ("checkpoints/checkpoint-40", "it belongs to another job (uid 1111-old)")
    ]


def test_a_job_whose_directory_was_taken_over_saves_nothing_there(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "demo", keep=2, directory=claimed(tmp_path / "demo", THEIRS))
    left_by(THEIRS, tmp_path / "demo")
    store.check_still_owned()
    claimed(tmp_path / "demo").claim(MOVE_ASIDE)
    before = snapshot(tmp_path)
    with pytest.raises(StageError, match=r"pvc://team/demo was taken over by SFTJob default/demo \(uid 2222-new\)"):
        store.seal(41, time="2026-03-01T12:00:00Z", eval_loss=None)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("stage", list(Stage))
def test_a_stage_refuses_another_job_s_directory_before_it_reads_or_writes_anything(
    bench: Workbench, stage: Stage
) -> None:
    config = bench.config(bench.write("rows.jsonl", [{"text": "a"}] * 4))
    left_by(THEIRS, bench.volume)
    before = snapshot(bench.volume)
    environ = {ENV_VOLUME_URI: "pvc://team/tiny", ENV_VOLUME: str(bench.volume)}

    ended = ending(stage, bench.root, to_json(config), environ)

    assert (ended.exit_code, ended.reason) == (ExitCode.INVALID, Reason.CONFIG_INVALID)
    assert "pvc://team/tiny cannot be used by SFTJob default/tiny" in (ended.message or "")
    assert snapshot(bench.volume) == before


def test_a_job_that_moves_aside_what_it_finds_is_prepared_from_nothing(bench: Workbench) -> None:
    config = bench.config(bench.write("rows.jsonl", [{"text": "a"}] * 4))
    assert ending(Stage.PREPARE, bench.root, to_json(config)).exit_code is ExitCode.DONE
    prepared = snapshot(bench.volume)
    again = replace(config, job=replace(config.job, uid="again"), existing_content=MOVE_ASIDE)
    environ = {ENV_VOLUME_URI: "pvc://team/volume", ENV_VOLUME: str(bench.volume)}

    missing = replace(bench.config(bench.root / "nothing.jsonl"), job=again.job, existing_content=MOVE_ASIDE)
    outcomes = [ending(Stage.PREPARE, bench.root, to_json(each), environ) for each in (missing, again, again)]

    assert [outcome.exit_code is ExitCode.DONE for outcome in outcomes] == [False, True, True]
    for outcome in outcomes:
        assert "are now at pvc://team/volume.moved-aside-again " in (outcome.moved_aside or "")
    assert snapshot(bench.root / "volume.moved-aside-again") == prepared
    assert (
        from_json(ownership.Owner, (bench.volume / layout.OWNER).read_bytes(), ignore_unknown=False).job.uid == "again"
    )


@pytest.mark.parametrize("stage", list(Stage))
def test_a_volume_that_may_not_be_read_or_written_is_a_sentence(
    bench: Workbench, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    config = bench.config(bench.write("rows.jsonl", [{"text": "a"}] * 4))
    (bench.volume / layout.OWNER).touch()

    def denied(path: Path, flags: int) -> int:
        raise OSError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(ownership.os, "open", denied)
    ended = ending(stage, bench.root, to_json(config), {ENV_VOLUME: str(bench.volume)})
    assert (ended.exit_code, ended.reason) == (ExitCode.NOT_FOUND, Reason.ACCESS_DENIED)
    assert "the volume may not be used by the Pod's user" in (ended.message or "")
