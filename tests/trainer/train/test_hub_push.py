"""The output in a repository on the hub, against a stand-in that answers as the real one does."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.destinations import HubRepository
from sftjob_contract.run.method import Method
from sftjob_trainer import publish, train
from sftjob_trainer.output import hub_push
from sftjob_trainer.output.hub_push import files, git_object_name, outdated_weights, push
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.retry import RetryPolicy
from support.servers.hub import Hub
from support.trainer.tiny import lora, run_config
from support.trainer.training import PEFT_IS_BEHIND, environment, job, read_metrics, write_prepared

pytestmark = [pytest.mark.slow, PEFT_IS_BEHIND]

READS = "hf_that_reads"
WRITES = "hf_that_writes"
REPOSITORY = HubRepository(repository="team/bot", private=True)
URI = "hf://team/bot"
ONCE = RetryPolicy(max_attempts=1)
ADAPTER = {
    "README.md": b"---\nlibrary_name: peft\n---\n",
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": bytes(range(256)) * 4000,
    "tokenizer.json": b'{"model": {}}',
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # as in a Pod that trains
    with Hub(tokens=frozenset({READS, WRITES}), writers=frozenset({WRITES})) as running:
        yield running


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    return written(tmp_path / "volume", {f"{layout.OUTPUT_ADAPTER}/{name}": what for name, what in ADAPTER.items()})


def written(volume: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        path = volume / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return volume


def reach(server: Hub, volume: Path, token: str | None = WRITES) -> Environment:
    return replace(environment(volume), hub_endpoint=server.url, hub_token=token)


def config(method: Method | None = None, *, merge: bool = False) -> RunConfig:
    made = run_config(model="hf://org/base", dataset="/d", method=lora() if method is None else method)
    return replace(made, output=replace(made.output, merge_adapter=merge, hub=REPOSITORY))


def writes(server: Hub) -> list[str]:
    """Names of what changed the repository."""
    return [request.path for request in server.requests if "/commit/" in request.path or "/large/" in request.path]


def test_a_repository_is_made_and_has_the_output_in_one_commit(server: Hub, volume: Path) -> None:
    assert push(config(), REPOSITORY, reach(server, volume), ONCE) == URI

    found = server.files("team/bot")
    assert {name: found[name] for name in ADAPTER} == ADAPTER
    assert server.is_private("team/bot")
    assert [path for path in writes(server) if "/commit/" in path] == ["/api/models/team/bot/commit/main"]


def test_the_token_goes_to_the_hub_and_nowhere_else(
    server: Hub, volume: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The place for large files, at another company as a rule, has rights of its own."""
    push(config(), REPOSITORY, reach(server, volume), ONCE)

    tokens = {request.token for request in server.requests if not request.path.startswith("/large/")}
    assert tokens == {WRITES}
    assert {request.token for request in server.requests if request.path.startswith("/large/")} == {None}
    assert WRITES not in "".join(capfd.readouterr()) + caplog.text


def test_what_is_there_already_is_not_sent_again(server: Hub, volume: Path) -> None:
    push(config(), REPOSITORY, reach(server, volume), ONCE)
    server.requests.clear()

    push(config(), REPOSITORY, reach(server, volume), ONCE)

    assert writes(server) == []


def test_weights_of_an_earlier_push_that_would_be_loaded_too_are_removed(server: Hub, volume: Path) -> None:
    old = {"model-00001-of-00002.safetensors": b"1", "model.safetensors.index.json": b"{}", "LICENSE": b"MIT"}
    server.commit("model", "team/bot", old)

    push(config(), REPOSITORY, reach(server, volume), ONCE)

    assert set(server.files("team/bot")) == {*ADAPTER, "LICENSE"}


def test_only_weights_where_a_loader_looks_are_stale() -> None:
    there = ["a.safetensors", "adapter/adapter_config.json", "pytorch_model.bin", "notes.md", "epoch-1/a.safetensors"]

    assert outdated_weights(there, ["b.safetensors"]) == [
        "a.safetensors",
        "adapter/adapter_config.json",
        "pytorch_model.bin",
    ]
    assert outdated_weights(there, there) == []


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        (config(), ["w"]),
        (config(merge=True), ["adapter/w", "m"]),
        (config(Method(lora=None, quantization=None, distillation=None)), ["f"]),
    ],
    ids=["adapter", "merged", "full"],
)
def test_a_merged_model_is_what_the_repository_is_and_the_adapter_lies_beside_it(
    asked: RunConfig, names: list[str], tmp_path: Path
) -> None:
    written(tmp_path, {"output/adapter/w": b"", "output/merged/m": b"", "output/model/f": b""})

    assert sorted(files(asked, tmp_path)) == names


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"], ids=["large", "small"])
def test_a_file_that_is_not_what_was_sent_is_a_failure(server: Hub, volume: Path, name: str) -> None:
    server.spoils = name

    with pytest.raises(StageError, match=f"{URI}: {name} is not stored as it was sent") as raised:
        push(config(), REPOSITORY, reach(server, volume), ONCE)

    assert raised.value.exit_code is ExitCode.INTERNAL


def test_a_hub_that_is_down_is_tried_again_with_longer_and_longer_pauses(server: Hub, volume: Path) -> None:
    server.broken = True
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        server.broken = len(pauses) < 2

    push(config(), REPOSITORY, reach(server, volume), RetryPolicy(sleep=sleep))

    assert pauses == [2, 4]
    assert set(ADAPTER) < set(server.files("team/bot"))


def test_while_the_hub_takes_its_time_the_run_is_said_to_be_alive(
    server: Hub, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_push, "ALIVE_SECONDS", 0.01)
    server.open.clear()

    assert push(config(), REPOSITORY, reach(server, volume), ONCE, server.open.set) == URI


DENIED = f"{URI} cannot be written: "
RIGHTS = "the right to write there, and to create the repository if it does not exist"


@pytest.mark.parametrize(
    ("token", "reason", "sentence"),
    [
        (None, Reason.ACCESS_DENIED, f"{DENIED}there is no token; set output.hub.tokenSecretRef"),
        (
            "hf_of_nobody",
            Reason.ACCESS_DENIED,
            f"{DENIED}the hub does not accept the token of output.hub.tokenSecretRef",
        ),
        (
            READS,
            Reason.ACCESS_DENIED,
            f"{DENIED}the hub refuses; give the token of output.hub.tokenSecretRef {RIGHTS}",
        ),
    ],
    ids=["none", "unknown", "may only read"],
)
def test_a_token_that_does_not_do_is_told_by_its_field(
    server: Hub, volume: Path, token: str | None, reason: Reason, sentence: str
) -> None:
    with pytest.raises(StageError) as raised:
        push(config(), REPOSITORY, reach(server, volume, token), RetryPolicy(sleep=pytest.fail))

    assert (raised.value.reason, raised.value.message) == (reason, sentence)
    assert raised.value.exit_code is ExitCode.NOT_FOUND


def test_a_name_that_the_hub_does_not_take_is_the_users_to_change(server: Hub, volume: Path) -> None:
    server.refused_names = frozenset({"team/bot"})

    with pytest.raises(StageError, match=r"the hub does not take the name of output\.hub\.repository") as raised:
        push(config(), REPOSITORY, reach(server, volume), ONCE)

    assert raised.value.exit_code is ExitCode.INVALID


def test_a_hub_that_is_not_there_is_told_as_such(volume: Path) -> None:
    nowhere = replace(environment(volume), hub_endpoint="http://127.0.0.1:9", hub_token=WRITES)

    with pytest.raises(StageError, match=rf"^{URI}: http://127\.0\.0\.1:9 cannot be reached: it ref") as raised:
        push(config(), REPOSITORY, nowhere, ONCE)

    assert raised.value.reason is Reason.UNREACHABLE


def test_small_files_have_gits_names() -> None:
    """`printf hello | git hash-object --stdin`."""
    assert git_object_name(b"hello") == "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0"


def trained(server: Hub, volume: Path, asked: RunConfig, attempt: int = 1) -> Outcome:
    return train.train(asked, replace(reach(server, volume), attempt=attempt))


@pytest.fixture
def asked(qwen2: Path) -> RunConfig:
    made = job(qwen2, method=lora(), max_steps=2)
    return replace(made, output=replace(made.output, merge_adapter=True, hub=REPOSITORY))


def test_after_a_failed_push_the_next_attempt_pushes_and_does_not_train(
    server: Hub, asked: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "RetryPolicy", lambda: ONCE)
    write_prepared(tmp_path, asked)
    server.broken = True
    failed = trained(server, tmp_path, asked)
    before = read_metrics(tmp_path)
    server.broken = False

    outcome = trained(server, tmp_path, asked, attempt=2)

    assert (failed.exit_code, failed.reason) == (ExitCode.INTERNAL, Reason.UNREACHABLE)
    assert failed.message == (
        f"{URI}: the hub {server.url} answered with HTTP 500; training is complete and its output is on the "
        "job's volume, at output/adapter"
    )
    assert outcome.output is not None
    assert outcome.output.uploaded == (URI,)
    assert read_metrics(tmp_path) == before
    merged = (tmp_path / layout.OUTPUT_MERGED / "model.safetensors").read_bytes()
    assert server.files("team/bot")["model.safetensors"] == merged
    assert hashlib.sha256(merged).hexdigest() in server.large


def test_what_was_pushed_loads_from_the_hub(server: Hub, asked: RunConfig, qwen2: Path, tmp_path: Path) -> None:
    """The model under the repository's name, the adapter from its folder."""

    write_prepared(tmp_path / "volume", asked)
    assert trained(server, tmp_path / "volume", asked).exit_code is ExitCode.DONE

    written(tmp_path / "copy", server.files("team/bot"))
    loads(tmp_path / "copy", qwen2)
    card = server.files("team/bot")["README.md"].decode()
    head: dict[str, Any] = yaml.safe_load(card.split("---")[1])
    assert head == {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["sft", "lora"]}
    assert json.loads(server.files("team/bot")["adapter/adapter_config.json"])["r"] == 4


def loads(directory: Path, base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(directory)
    AutoModelForCausalLM.from_pretrained(directory)
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), directory, subfolder="adapter")
