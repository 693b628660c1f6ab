"""Record the loss curves of docs/is-it-learning.md: real runs of the trainer on the quickstart's model and data.

Each run differs from the healthy one in one setting. Writes docs/figures/loss-curves.json, which `draw.py` draws. Takes
about five minutes on two cores. `make figures` draws without recording.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from examples.quickstart.dataset import write
from sftjob_contract import layout, names
from sftjob_contract.codec import to_json
from sftjob_operator.api import parse_job
from sftjob_operator.render import run_config

CURVES: Final = Path(__file__).resolve().parents[2] / "docs" / "figures" / "loss-curves.json"
TRAINING: Final[Mapping[str, Any]] = {
    "maxSteps": 600,
    "perDeviceBatchSize": 4,
    "gradientAccumulationSteps": 1,
    "learningRate": 0.0015,
    "warmupRatio": 0.1,
    "maxLength": 256,
    "loggingSteps": 10,
}
"""The healthy run."""
CHANGES: Final[Mapping[str, Mapping[str, Mapping[str, Any]]]] = {
    "healthy": {},
    "learning rate too low": {"training": {"learningRate": 0.00001}},
    "learning rate too high": {"training": {"learningRate": 0.3}},
    "too few rows": {"dataset": {"maxSamples": 40}},
}
"""What each run changes."""
POINTS: Final = ("step", "loss", "evalLoss", "gradNorm")


def job(name: str, data: Path) -> dict[str, Any]:
    """The SFTJob of one run, on local files."""
    change = CHANGES[name]
    source = {"source": str(data / "train.jsonl"), "evaluation": {"source": str(data / "evaluation.jsonl")}}
    spec = {
        "model": {"source": str(data / "model")},
        "dataset": {**source, **change.get("dataset", {})},
        "method": {"full": {}},
        "training": {**TRAINING, **change.get("training", {})},
        "evaluation": {"everySteps": 50},
        "checkpoints": {"everySteps": TRAINING["maxSteps"]},
        "resources": {"gpus": 0},
    }
    return {"metadata": {"name": name.replace(" ", "-"), "namespace": "figures", "uid": "figures"}, "spec": spec}


def run(name: str, place: Path) -> list[dict[str, float]]:
    """Prepare and train; returns the points of the run's metrics."""
    volume, config = place / name, place / f"{name}.json"
    volume.mkdir()
    config.write_text(to_json(run_config(parse_job(job(name, place / "data")))), encoding="utf-8")
    environ = {**os.environ, names.ENV_RUN_CONFIG: str(config), names.ENV_VOLUME: str(volume)}
    for stage in (names.Stage.PREPARE, names.Stage.TRAIN):
        command = [sys.executable, *names.TRAINER_COMMAND[1:], stage.value]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {stage} ended with {done.returncode}\n{done.stderr[-1500:]}")
            break
    lines = (volume / layout.METRICS).read_text(encoding="utf-8").splitlines()
    return [{key: point[key] for key in POINTS if point.get(key) is not None} for point in map(json.loads, lines)]


def main() -> None:
    """Record every run and write the curves."""
    with tempfile.TemporaryDirectory() as place:
        write(Path(place) / "data")
        curves = {}
        for name in CHANGES:
            curves[name] = run(name, Path(place))
            print(f"{name}: {curves[name][-1]}", flush=True)
    rows = (f'"{name}": {json.dumps(points)}' for name, points in curves.items())
    CURVES.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
