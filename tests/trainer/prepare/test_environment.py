from pathlib import Path

import pytest

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import (
    ENV_ATTEMPT,
    ENV_CLAIMS,
    ENV_GRACE_SECONDS,
    ENV_GRADIENT_CHECKPOINTING,
    ENV_HUB_TOKEN,
    ENV_MICRO_BATCH,
    ENV_NODE_RANK,
    ENV_NODES,
    ENV_RUN_CONFIG,
    ENV_VOLUME,
)
from sftjob_trainer.process.environment import ENV_LAUNCHED, read_environment, remove_distributed_variables
from sftjob_trainer.process.errors import StageError

NEEDED = {ENV_RUN_CONFIG: "/etc/config.json", ENV_VOLUME: "/volume"}


def test_what_is_not_given_is_absent() -> None:
    environment = read_environment({**NEEDED, ENV_CLAIMS: ""})
    assert environment.config_path == Path("/etc/config.json")
    assert environment.volume == Path("/volume")
    assert environment.attempt == 1
    assert environment.claims is None
    assert environment.progress_url is None
    assert environment.hub_token is None
    assert environment.micro_batch is None
    assert environment.gradient_checkpointing is None
    assert environment.grace_seconds is None


def test_what_is_of_this_attempt_alone_is_a_number() -> None:
    environment = read_environment({**NEEDED, ENV_MICRO_BATCH: "2", ENV_GRACE_SECONDS: "600"})
    assert (environment.micro_batch, environment.grace_seconds) == (2, 600)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False)])
def test_what_was_planned_for_gradient_checkpointing_is_a_flag(text: str, value: bool) -> None:
    assert read_environment({**NEEDED, ENV_GRADIENT_CHECKPOINTING: text}).gradient_checkpointing is value


def test_the_hub_token_is_not_shown() -> None:
    environment = read_environment({**NEEDED, ENV_HUB_TOKEN: "hf_secret"})
    assert environment.hub_token == "hf_secret"
    assert "hf_secret" not in repr(environment)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {ENV_RUN_CONFIG: ""},
            "the environment variable SFTJOB_RUN_CONFIG is not set; it must be the path of the run config",
        ),
        (
            {ENV_VOLUME: ""},
            "the environment variable SFTJOB_VOLUME is not set; it must be the root of the job's volume",
        ),
        ({ENV_ATTEMPT: "0"}, "SFTJOB_ATTEMPT must be a whole number from 1, not '0'"),
        ({ENV_NODES: "0"}, "SFTJOB_NODES must be a whole number from 1, not '0'"),
        ({ENV_NODE_RANK: "-1"}, "SFTJOB_NODE_RANK must be a whole number from 0, not '-1'"),
        ({ENV_MICRO_BATCH: "0"}, "SFTJOB_MICRO_BATCH must be a whole number from 1, not '0'"),
        ({ENV_GRADIENT_CHECKPOINTING: "yes"}, "SFTJOB_GRADIENT_CHECKPOINTING must be true or false, not 'yes'"),
        ({ENV_ATTEMPT: "two"}, "SFTJOB_ATTEMPT must be a whole number from 1, not 'two'"),
        ({ENV_ATTEMPT: "²"}, "SFTJOB_ATTEMPT must be a whole number from 1, not '²'"),
    ],
)
def test_a_wrong_variable_is_named(change: dict[str, str], sentence: str) -> None:
    with pytest.raises(StageError) as raised:
        read_environment({**NEEDED, **change})
    assert raised.value.message == sentence
    assert raised.value.exit_code is ExitCode.INVALID


@pytest.mark.parametrize("launched", [False, True])
def test_only_the_launcher_says_how_many_processes_there_are(launched: bool) -> None:
    """The keys of a Secret are variables too, and torch.distributed would wait for processes that do not exist."""
    world = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "ACCELERATE_USE_FSDP": "true", "PMI_SIZE": "2"}
    environ = {**world, "NCCL_DEBUG": "INFO", **({ENV_LAUNCHED: "1"} if launched else {})}
    remove_distributed_variables(environ)
    assert (world.keys() <= environ.keys(), environ["NCCL_DEBUG"]) == (launched, "INFO")
