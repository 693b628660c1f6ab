"""The files of a model repository that holds its weights twice, as those of Mistral do."""

import json
from typing import Final

_SHARDS: Final = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
_INDEX: Final = {"weight_map": {"lm_head.weight": _SHARDS[1], "model.embed_tokens.weight": _SHARDS[0]}}
TWICE: Final = {
    "config.json": b"{}",
    "consolidated.safetensors": b"both",
    "params.json": b"{}",
    "model.safetensors.index.json": json.dumps(_INDEX).encode(),
    **dict.fromkeys(_SHARDS, b"half"),
}
LOADED: Final = ["config.json", *_SHARDS, "model.safetensors.index.json", "params.json"]
"""What loading it with transformers needs."""
