"""Runs in a Pod of the trainer's image: path and bytes of every file on the claim that is mounted at $TARGET."""

import json
import os
from pathlib import Path

TARGET = Path(os.environ["TARGET"])
files = {str(path.relative_to(TARGET)): path.stat().st_size for path in TARGET.rglob("*") if path.is_file()}
print(json.dumps(files))
