"""`make sandbox` and `make operator`: the local stack in `.sandbox`, and an operator to restart separately."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

from sftjob_dev.stack import DATA, OPERATOR_COMMAND, Stack, StackError, end_on_signals, is_alive

_SETTINGS: Final = "operator.json"
"""File with the environment variables of the operator, so that each listens where the trainers report."""
_HINTS: Final = """
This is an emulator of a Kubernetes API server, not a cluster. In another terminal:

  export KUBECONFIG={kubeconfig}
  {python} examples/quickstart/dataset.py {data}/volumes/default/quickstart-data
  kubectl apply -f examples/quickstart/data.yaml
  kubectl apply -f examples/quickstart/sftjob.yaml
  kubectl get sft -w
  kubectl logs -f quickstart-train-1

Logs: {data}/logs. Volumes: {data}/volumes. Ctrl-C stops everything.
"""


def run_sandbox(data: Path, *, operator: bool) -> None:
    """Run the stack until Ctrl-C, after printing the next steps.

    Raises:
        StackError: a process did not start, or ended.
    """
    print(f"Starting a local API server and a node{', and the operator' if operator else ''} ...")
    with Stack(data, operator=operator) as stack:
        write_settings(stack)
        kubeconfig, python = _short(stack.kubeconfig), _short(Path(sys.executable))
        print(_HINTS.format(kubeconfig=kubeconfig, data=_short(data), python=python))
        if not operator:
            print("No operator is running: start it in another terminal with `make operator`.")
        sys.stdout.flush()
        while True:
            stack.check()
            time.sleep(1)


def write_settings(stack: Stack) -> None:
    """Store what `run_operator` needs."""
    (stack.data / _SETTINGS).write_text(json.dumps(stack.operator_settings(), indent=2), encoding="utf-8")


def run_operator(data: Path) -> None:
    """Become the operator of the running sandbox, with its log on this terminal.

    Raises:
        StackError: no sandbox is running, or its operator is.
    """
    start = "start `make sandbox OPERATOR=no` in another terminal"
    if not ((data / "kubeconfig").exists() and (data / _SETTINGS).exists()):
        raise StackError(f"no sandbox is running: {start}")
    settings: dict[str, str] = json.loads((data / _SETTINGS).read_text(encoding="utf-8"))
    if is_alive(settings):
        raise StackError(f"the sandbox already has an operator: stop it, or stop the sandbox and {start}")
    os.execve(OPERATOR_COMMAND[0], OPERATOR_COMMAND, {**os.environ, **settings})


def _short(path: Path) -> str:
    """`path` in the shortest form for typing."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def main() -> None:
    """Run the command line's program."""
    parser = argparse.ArgumentParser(prog="python -m sftjob_dev")
    programs = parser.add_subparsers(dest="program", required=True)
    sandbox = programs.add_parser("sandbox", help="run a local API server, a node and the operator until Ctrl-C")
    sandbox.add_argument("--no-operator", action="store_true", help="run it without an operator")
    programs.add_parser("operator", help="run the operator of a sandbox that was started with --no-operator")
    arguments = parser.parse_args()
    end_on_signals()
    try:
        if arguments.program == "sandbox":
            run_sandbox(DATA, operator=not arguments.no_operator)
        else:
            run_operator(DATA)
    except StackError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        print("\nStopped.")


if __name__ == "__main__":
    main()
