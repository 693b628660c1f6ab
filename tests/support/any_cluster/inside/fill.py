"""Runs in a Pod of the trainer's image: a tiny model and data sets for the claim that is mounted at $TARGET."""

import json
import os
from pathlib import Path

from tiny import write_model

TARGET = Path(os.environ["TARGET"])
write_model(TARGET / "model")
for name, text in json.loads(os.environ["FILES"]).items():
    (TARGET / name).write_text(text, encoding="utf-8")
print(sorted(path.name for path in TARGET.iterdir()))
