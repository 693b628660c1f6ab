"""What a model from a stranger reaches: no code of it runs, and none of its files lies or is read elsewhere."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.run.checkpoints import seal
from sftjob_trainer.sources.hub import download_model, model_files
from sftjob_trainer.sources.remote import fetch
from sftjob_trainer.sources.resolve import resolve_model
from sftjob_trainer.tokens.tokenizer import load_tokenizer
from support.servers.archives import LINK, packed_tar, packed_zip
from support.servers.hub import Hub
from support.servers.object_store import ObjectStore
from support.servers.web import Web
from support.trainer.preparing import Workbench, environment
from support.trainer.tiny import CHATML, run_config, write_tokenizer
from support.trainer.training import as_died_after, finish, job, run_train, write_prepared

OWN = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}


@pytest.fixture
def model(tmp_path: Path, tiny: Path) -> Path:
    """A model of the test's own to make evil."""
    return Path(shutil.copytree(tiny, tmp_path / "model"))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def assert_refused(outcome: Outcome) -> None:
    assert outcome.reason is Reason.CONFIG_INVALID
    assert "cannot be loaded as a causal language model" in str(outcome.message)


# Code


def test_weights_that_are_a_pickle_are_not_run(tmp_path: Path, model: Path, trap: Any) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(trap.pickled)
    config = job(model, max_steps=1)
    write_prepared(tmp_path, config)
    assert_refused(run_train(tmp_path, config))
    assert not trap.sprung


def test_of_a_repository_with_safetensors_no_pickle_is_downloaded() -> None:
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "training_args.bin", "optimizer.pt", "x.pkl"]
    assert model_files(names, Path.read_bytes) == ["config.json", "model.safetensors"]


def test_the_code_of_a_model_is_not_run_when_it_is_loaded(tmp_path: Path, model: Path, trap: Any) -> None:
    change_json(model / "config.json", auto_map=OWN, model_type="own", architectures=["Own"])
    (model / "own.py").write_text(trap.code)
    config = job(model, max_steps=1)
    write_prepared(tmp_path, config)
    assert_refused(run_train(tmp_path, config))
    assert not trap.sprung


def test_the_code_of_a_tokenizer_is_not_run_when_data_is_prepared(model: Path, bench: Workbench, trap: Any) -> None:
    change_json(model / "config.json", auto_map=OWN, model_type="own")
    change_json(model / "tokenizer_config.json", auto_map=OWN, tokenizer_class="Own")
    (model / "own.py").write_text(trap.code)
    with pytest.raises(StageError, match=r"it comes with code; read that code, then set model\.trustRemoteCode: true"):
        load_tokenizer(model, bench.config("unused").model)
    assert not trap.sprung


def test_code_beside_a_known_model_is_ignored(model: Path, bench: Workbench, trap: Any) -> None:
    change_json(model / "config.json", auto_map=OWN)
    (model / "own.py").write_text(trap.code)
    data = bench.write("a.jsonl", [{"text": "a b"}] * 4)
    assert bench.prepare(data, model=str(model)).rows == 4
    assert not trap.sprung


def test_a_checkpoint_that_is_a_pickle_is_not_run(tmp_path: Path, tiny: Path, trap: Any) -> None:
    volume = tmp_path / "whole"
    volume.mkdir()
    finished = finish(volume, job(tiny, save_every=2, max_steps=4), held_out=0)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        broken = as_died_after(2, finished, tmp_path / name)
        checkpoint = broken / layout.CHECKPOINTS / "checkpoint-2"
        manifest = json.loads((checkpoint / layout.MANIFEST).read_text())
        (checkpoint / layout.MANIFEST).unlink()
        (checkpoint / name).write_bytes(trap.pickled)
        seal(checkpoint, step=2, time=manifest["time"], eval_loss=None)
        assert resumed_from(broken, finished.config) in (None, 2)
        assert not trap.sprung, name


def resumed_from(volume: Path, config: RunConfig) -> int | None:
    """Step that a second attempt goes on from, or None if it cannot."""
    try:
        state = run_train(volume, config, attempt=2).progress
    except Exception:  # noqa: BLE001 -- a library's, about a file that is no tensor
        return None
    return None if state is None else state.resumed_from_step


def test_the_trap_of_these_tests_is_one(trap: Any) -> None:
    pickle.loads(trap.pickled)
    assert trap.sprung


# Templates


ESCAPES = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('touch TRAP') }}",
    "{{ self.__init__.__globals__.__builtins__.open('TRAP', 'w') }}",
    "{{ lipsum.__globals__['os'].popen('touch TRAP').read() }}",
    "{{ messages.append(1) }}",
    "{% include '/etc/passwd' %}",
    "{{ '{0.__class__.__base__}'.format(messages) }}{{ raise_exception.__globals__ }}",
)


@pytest.mark.parametrize("escape", ESCAPES)
def test_the_chat_template_of_a_tokenizer_reaches_nothing(
    model: Path, bench: Workbench, trap: Any, escape: str
) -> None:
    write_tokenizer(model, chat_template=CHATML + escape.replace("TRAP", str(trap.file)))
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    with pytest.raises(
        StageError, match=r"the model's chat template: line 4: (access to attribute .* is unsafe|no loader)"
    ):
        bench.prepare(bench.write("a.jsonl", [{"messages": chat}]), model=str(model))
    assert not trap.sprung


# Places


def outside(root: Path, *but: str) -> list[str]:
    """Files in `root` that are in none of its directories `but`."""
    found = [path.relative_to(root) for path in root.rglob("*") if path.is_file()]
    return sorted(str(path) for path in found if path.parts[0] not in but)


@pytest.mark.parametrize("name", ["../../escaped.json", "/escaped.json", "a/../../../escaped.json"])
def test_files_of_a_hub_are_written_into_the_cache_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr("sftjob_trainer.sources.hub.model_files", lambda names, _: list(names))
    with Hub() as hub:
        hub.commit("model", "org/evil", {"config.json": b"{}", name: b"{}"})
        place = environment(tmp_path / "volume", hub_endpoint=hub.url)
        try:
            download_model("hf://org/evil", None, place)
        except (StageError, ValueError, OSError) as error:
            assert name in str(error) or "escaped" in str(error)  # noqa: PT017 -- it need not be refused
    assert outside(tmp_path, "volume") == []
    assert not Path("/escaped.json").exists()


@pytest.mark.parametrize("key", ["../../escaped.jsonl", "a/../../../../escaped.jsonl", "/escaped.jsonl"])
def test_objects_of_a_store_are_written_into_the_cache_only(
    tmp_path: Path, store: ObjectStore, here: Environment, key: str
) -> None:
    store.objects |= {f"lab/evil/{key}": b"x", "lab/evil/good.jsonl": b"y"}
    place = fetch("s3://lab/evil", "dataset", lambda names, _: list(names), here)
    assert [path.name for path in place.rglob("*.jsonl")] == ["good.jsonl"]
    assert outside(tmp_path, "volume") == []


@pytest.mark.parametrize("pack", [packed_tar, packed_zip])
@pytest.mark.parametrize(
    "members",
    [
        {"config.json": b"{}", "../../../escaped": b""},
        {"config.json": b"{}", "/escaped": b""},
        {"config.json": b"{}", "out": LINK + "../../../..", "out/escaped": b""},
        {"config.json": f"{LINK}/etc/passwd"},
    ],
    ids=["climbs", "from the root", "through a link", "a link"],
)
def test_archives_are_unpacked_into_the_cache_only(
    tmp_path: Path, site: Web, here: Environment, pack: Any, members: Any
) -> None:
    name = "/m.zip" if pack is packed_zip else "/m.tar.gz"
    site.files[name] = pack(members)
    try:
        place = fetch(f"{site.url}{name}", "model", model_files, here)
    except StageError as failure:
        assert failure.reason is Reason.CONFIG_INVALID  # noqa: PT017 -- a zip leaves out what a tar is refused for
    else:
        assert not any(path.is_symlink() for path in place.rglob("*"))
    assert [path for path in outside(tmp_path, "volume") if "escaped" in path] == []
    assert not Path("/escaped").exists()


def test_a_link_on_a_claim_does_not_lead_to_the_secrets_of_the_pod(tmp_path: Path, tiny: Path) -> None:
    evil = Path(shutil.copytree(tiny, tmp_path / "claims" / "shared" / "model"))
    (evil / "vocab.txt").symlink_to("/proc/self/environ")
    config = run_config(model="pvc://shared/model", dataset="unused")
    place = environment(tmp_path, claims=tmp_path / "claims")
    with pytest.raises(StageError, match=r"pvc://shared/model: vocab\.txt is a link out of its volume"):
        resolve_model(config, place)


def test_links_within_a_claim_are_followed(tmp_path: Path, tiny: Path) -> None:
    blobs = Path(shutil.copytree(tiny, tmp_path / "claims" / "shared" / "blobs"))
    snapshot = tmp_path / "claims" / "shared" / "snapshot"
    snapshot.mkdir()
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(f"../blobs/{blob.name}")
    config = run_config(model="pvc://shared/snapshot", dataset="unused")
    assert resolve_model(config, environment(tmp_path, claims=tmp_path / "claims")).directory == snapshot
