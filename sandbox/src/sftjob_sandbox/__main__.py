"""`python -m sftjob_sandbox up`: the sandbox in the foreground, until SIGINT or SIGTERM."""

import argparse
import asyncio
import logging
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sftjob_sandbox.http.server import ServerSettings
from sftjob_sandbox.node.containers.paths import existing_claims
from sftjob_sandbox.sandbox import Sandbox, SandboxError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_up(options))
    except (SandboxError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sftjob_sandbox", description=__doc__)
    up = parser.add_subparsers(required=True, metavar="up").add_parser(
        "up", help="start an emulated Kubernetes API server and node on this machine"
    )
    up.add_argument(
        "--data", type=Path, default=Path(".sandbox"), metavar="DIR", help="volumes, logs and the kubeconfig"
    )
    up.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: a free one)")
    up.add_argument("--gpus", type=int, default=0, metavar="N", help="GPU slots of the node (default: none)")
    up.add_argument("--gpu-resource", default="nvidia.com/gpu", metavar="NAME", help="resource that Pods ask GPUs by")
    up.add_argument(
        "--image",
        type=_image,
        action="append",
        default=[],
        metavar="REF=BINDIR",
        help="an image that the node has: its containers run as local processes with BINDIR first on PATH",
    )
    up.add_argument("--kubeconfig", type=Path, metavar="PATH", help="default: kubeconfig in the data directory")
    up.add_argument("--crd", type=Path, action="append", default=[], metavar="FILE", help="a definition to begin with")
    up.add_argument("--fresh", action="store_true", help="first delete what an earlier run left in the data directory")
    return parser


def _image(text: str) -> tuple[str, Path]:
    reference, separator, directory = text.partition("=")
    if not (reference and separator and directory):
        raise argparse.ArgumentTypeError(f"{text!r} must be REF=BINDIR, such as trainer:dev=/usr/bin")
    if not Path(directory).is_dir():
        raise argparse.ArgumentTypeError(f"{directory!r} of {text!r} is not a directory")
    return reference, Path(directory)


async def _up(options: argparse.Namespace) -> None:
    if options.fresh:
        for name in ("volumes", "pods"):
            shutil.rmtree(options.data / name, ignore_errors=True)
    sandbox = Sandbox(
        data=options.data,
        kubeconfig=options.kubeconfig or Path(),
        images=dict(options.image),
        gpus=options.gpus,
        gpu_resource=options.gpu_resource,
        definitions=options.crd,
        server=ServerSettings(port=options.port),
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    left = existing_claims(options.data)
    async with sandbox:
        _greet(sandbox, left)
        await stop.wait()
        print("Stopping Pods ...", flush=True)


def _greet(sandbox: Sandbox, left: Sequence[str]) -> None:
    print("This is an emulator of a Kubernetes API server and one node, for trying and testing. It is not Kubernetes.")
    print(f"  server      {sandbox.url}")
    print(f"  kubeconfig  {sandbox.kubeconfig}")
    print(f"  try         kubectl --kubeconfig {sandbox.kubeconfig} get nodes")
    for claim in left:
        print(f"  volume of an earlier run, found again by a claim of its name: {claim}")
    print("Ctrl-C stops it.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
