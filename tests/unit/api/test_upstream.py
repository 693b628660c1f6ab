"""Which field stands for which option of TRL, PEFT and transformers."""

import pytest

from sftjob_operator.api.upstream import fields_of_options


@pytest.mark.parametrize(
    ("library", "option", "fields"),
    [
        ("TRL", "learning_rate", ("spec.training.learningRate",)),
        ("TRL", "bf16", ("spec.training.precision",)),
        ("TRL", "fp16", ("spec.training.precision",)),
        ("TRL", "warmup_steps", ("spec.training.warmupRatio", "spec.training.warmupSteps")),
        ("TRL", "save_total_limit", ("spec.checkpoints.keep",)),
        ("TRL", "hub_token", ("spec.output.hub.tokenSecretRef",)),
        ("PEFT", "r", ("spec.method.lora.rank",)),
        ("transformers", "bnb_4bit_quant_type", ("spec.method.quantization.type",)),
    ],
)
def test_an_option_is_found_with_its_fields(library: str, option: str, fields: tuple[str, ...]) -> None:
    assert fields_of_options()[library][option] == fields


def test_what_has_no_field_is_not_there() -> None:
    assert "adam_beta2" not in fields_of_options()["TRL"]
    assert "init_lora_weights" not in fields_of_options()["PEFT"]
