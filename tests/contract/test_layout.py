"""Paths and URIs of the volume."""

import pytest

from sftjob_contract.layout import ClaimPath, checkpoint_name, checkpoint_step


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-0", 0),
        ("checkpoint-120", 120),
        ("checkpoint-12.tmp", None),
        ("tmp-checkpoint-12", None),
        ("x", None),
    ],
)
def test_only_a_finished_checkpoint_directory_has_a_step(name: str, step: int | None) -> None:
    assert checkpoint_step(name) == step


def test_a_checkpoint_name_gives_its_step_back() -> None:
    assert checkpoint_step(checkpoint_name(77)) == 77


@pytest.mark.parametrize(
    ("uri", "claim", "path"),
    [
        ("pvc://data/train.jsonl", "data", "train.jsonl"),
        ("pvc://data/a/b/", "data", "a/b"),
        ("pvc://data", "data", ""),
    ],
)
def test_a_claim_uri_names_claim_and_path(uri: str, claim: str, path: str) -> None:
    assert ClaimPath.parse(uri) == ClaimPath(claim, path)


@pytest.mark.parametrize("uri", ["pvc://", "pvc:///a", "pvc://data/../x", "hf://org/name", "/plain"])
def test_a_malformed_claim_uri_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match="must be pvc://CLAIM/PATH"):
        ClaimPath.parse(uri)
