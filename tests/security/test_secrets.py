"""No secret is shown, even where a library puts it into its error, prints it, or logs it."""

import base64
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import quote

import pytest

from sftjob_contract.codec import to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import (
    ENV_HUB_TOKEN,
    ENV_RUN_CONFIG,
    ENV_SECRET_VARIABLES,
    ENV_TERMINATION_LOG,
    ENV_VOLUME,
    ENV_WANDB_API_KEY,
    TRAINER_COMMAND,
    Stage,
)
from sftjob_contract.run.config import Preprocessing, RowFunction
from sftjob_contract.secrets import HIDDEN, without_secrets
from sftjob_trainer.process.redaction import redact, secrets_in
from support.fakes.fake_cluster import World, running
from support.jobs.builders import a_job
from support.trainer.preparing import Workbench
from support.trainer.tiny import data_source

SECRETS = {
    ENV_HUB_TOKEN: "hf_made-up/token+of=tests",
    ENV_WANDB_API_KEY: "0123456789abcdef-made-up",
    "AWS_ACCESS_KEY_ID": "AKIDMADEUP",
    "AWS_SECRET_ACCESS_KEY": "made/up+secret/access+key",
    "MLFLOW_TRACKING_PASSWORD": 'made "up" password\\',
    "DB_URL": "postgres://somebody@somewhere/made-up",
}
ECHO = """
import base64, json, logging, os, sys, warnings
from urllib.parse import quote

def echo(row):
    names = os.environ["ECHOED"].split(",")
    values = [os.environ[name] for name in names]
    written = [form(value) for value in values for form in (
        str, repr, json.dumps, quote, lambda v: quote(v, safe=""), lambda v: base64.b64encode(v.encode()).decode(),
        lambda v: f"https://user:{quote(v, safe='')}@host/path", lambda v: f"Authorization: Bearer {v}",
    )]
    for text in written:
        print(text)
        print(text, file=sys.stderr)
        sys.stdout.writelines([text, "\\n"])
        logging.getLogger("somebodys.library").error("failed: %s", text)
        warnings.warn(text)
    try:
        raise RuntimeError(written[0])
    except RuntimeError as error:
        logging.getLogger("somebodys.library").exception("again")
        raise ConnectionError("cannot connect: " + " ".join(written)) from error
"""


def forms(value: str) -> set[str]:
    return {value, quote(value), quote(value, safe=""), base64.b64encode(value.encode()).decode()}


def shown(text: str) -> dict[str, str]:
    return {name: form for name, value in SECRETS.items() for form in forms(value) if form in text}


def run(bench: Workbench, **environ: str) -> tuple["subprocess.CompletedProcess[str]", str]:
    """Prepare data with a function that shows all that it knows; the process, and its last word."""
    function = bench.write("echo.py", ECHO)
    data = bench.write("a.jsonl", [{"text": "a b"}] * 4)
    preprocessing = Preprocessing(template=None, function=RowFunction(file=str(function), name="echo"))
    config = bench.config(data)
    config = replace(
        config,
        model=replace(config.model, trust_remote_code=True),
        dataset=replace(config.dataset, sources=(data_source(str(data), preprocessing=preprocessing),)),
    )
    (bench.root / "config.json").write_text(to_json(config))
    log = bench.root / "termination-log"
    done = subprocess.run(
        [sys.executable, *TRAINER_COMMAND[1:], Stage.PREPARE],
        env={
            **os.environ,
            ENV_RUN_CONFIG: str(bench.root / "config.json"),
            ENV_VOLUME: str(bench.volume),
            ENV_TERMINATION_LOG: str(log),
            **environ,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done, log.read_text()


def test_a_library_that_shows_all_secrets_shows_none(bench: Workbench) -> None:
    done, last_word = run(bench, **SECRETS, ECHOED=",".join(SECRETS), **{ENV_SECRET_VARIABLES: "DB_URL"})
    assert done.returncode == ExitCode.INVALID, done.stderr
    assert "[HF_TOKEN]" in done.stdout
    assert "[DB_URL]" in done.stderr
    assert "cannot connect" in last_word
    assert {"stdout": shown(done.stdout), "stderr": shown(done.stderr), "last word": shown(last_word)} == {
        "stdout": {},
        "stderr": {},
        "last word": {},
    }
    for path in bench.volume.rglob("*"):
        assert path.is_dir() or not shown(path.read_bytes().decode(errors="replace")), path


def test_what_the_process_writes_can_be_read_by_other_users(bench: Workbench) -> None:
    code = f"import os; os.umask(0o077); import runpy, sys; sys.argv[1:] = ['{Stage.PREPARE}']; "
    code += "runpy.run_module('sftjob_trainer', run_name='__main__')"
    data = bench.write("a.jsonl", [{"text": "a b"}] * 4)
    (bench.root / "config.json").write_text(to_json(bench.config(data)))
    environ = {**os.environ, ENV_RUN_CONFIG: str(bench.root / "config.json"), ENV_VOLUME: str(bench.volume)}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=120, capture_output=True)
    written = [path for path in (bench.volume / "prepared").rglob("*") if path.is_file()]
    assert written
    assert [path for path in written if path.stat().st_mode & 0o044 != 0o044] == []


NAMES = {
    "HF_TOKEN": True,
    "AWS_SECRET_ACCESS_KEY": True,
    "AWS_ACCESS_KEY_ID": True,
    "AWS_SESSION_TOKEN": True,
    "MLFLOW_TRACKING_PASSWORD": True,
    "WANDB_API_KEY": True,
    "my_api_key": True,
    "NCCL_DEBUG": False,
    "SFTJOB_PROGRESS_TOKEN": False,
    "GOOGLE_APPLICATION_CREDENTIALS": False,
    "TOKENIZERS_PARALLELISM": False,
}


@pytest.mark.parametrize(("name", "hidden"), NAMES.items())
def test_secrets_are_known_by_their_names(name: str, hidden: bool) -> None:
    assert (name in secrets_in({name: "a value that is long enough"})) is hidden


def test_variables_from_secrets_are_hidden_whatever_their_names() -> None:
    environ = {ENV_SECRET_VARIABLES: "PIN_CODE,OTHER", "PIN_CODE": "made-up-value", "NCCL_DEBUG": "a long value"}
    assert secrets_in(environ) == {"PIN_CODE": "made-up-value"}


def test_of_two_secrets_the_longer_one_is_hidden_whole() -> None:
    secrets = {"A_TOKEN": "made-up-1", "B_TOKEN": "made-up-1-and-more"}
    assert redact("x made-up-1-and-more y made-up-1 z", secrets) == "x [B_TOKEN] y [A_TOKEN] z"


TEXTS: Mapping[str, str] = {
    "https://user:made-up@host/x": "https ***host/x",
    "Authorization: Bearer made-up.token": f"Authorization: Bearer {HIDDEN}",
    "https://s3/x?X-Amz-Signature=abc&X-Amz-Credential=d%2F&size=1": (
        f"https://s3/x?X-Amz-Signature={HIDDEN}&X-Amz-Credential={HIDDEN}&size=1"
    ),
    "https://blob/x?sig=abc%3D'": f"https://blob/x?sig={HIDDEN}'",
    f"token hf_{'a' * 34} end": f"token {HIDDEN} end",
    f"key=AKIA{'A' * 16}": f"key {HIDDEN}",
    f"eyJ{'a' * 20}.{'b' * 20}.{'c' * 20} is a token": f"{HIDDEN} is a token",
    "-----BEGIN RSA PRIVATE KEY-----": f" {HIDDEN}-----",
    "nothing: to hide, step 3 of 4 at https://host:443/path?size=1": (
        "nothing: to hide, step 3 of 4 at https://host:443/path?size=1"
    ),
}


@pytest.mark.parametrize(("text", "left"), TEXTS.items())
def test_what_looks_like_a_secret_is_left_out_whoever_wrote_it(text: str, left: str) -> None:
    assert without_secrets(text) == left


async def test_an_image_that_ends_with_a_secret_in_its_log_shows_none_in_status_and_events() -> None:
    world = World()
    key = await world.apply(a_job().failure_policy(max_retries=0))
    await world.pod("demo-prepare-1", running())
    lines = ("Traceback ...", "clone https://me:made-up-secret@host failed", "Authorization: Bearer made-up-secret")
    text = "\n".join((*lines, f"hf_{'x' * 34}"))
    terminated = {"exitCode": 1, "reason": "Error", "message": text, "finishedAt": "2026-03-01T12:00:00Z"}
    status = {"name": "trainer", "state": {"terminated": terminated}}
    await world.pod("demo-prepare-1", {"phase": "Failed", "containerStatuses": [status]})
    told = str(world.status(key)) + str([asked.body for asked in world.requests("create", "Event")])
    assert "clone https" in told
    assert "made-up-secret" not in told
    assert "x" * 34 not in told
