"""Weights that two runs left behind, compared."""

from pathlib import Path


def assert_same_weights(one: Path, other: Path, *, atol: float = 0.0) -> None:
    """Two files of the same tensors, which differ by at most `atol`; by not a single bit unless it is given."""
    import torch
    from safetensors.torch import load_file

    left, right = load_file(one), load_file(other)
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=atol)
