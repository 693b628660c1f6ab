"""LoftQ: an adapter on 4-bit weights begins with the error of the quantization, the output fits the base as it is."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.method import ComputeDtype, Method, Quantization, QuantizationType
from sftjob_trainer.distributed.world import World
from sftjob_trainer.models.quantized_base import BaseQuantization, check_base
from sftjob_trainer.preflight.meta_model import find_refusal
from sftjob_trainer.preflight.run_config import problems
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.training import loftq
from sftjob_trainer.training.loftq import nearest_low_rank
from support.trainer.tiny import lora, run_config
from support.trainer.training import (
    PEFT_IS_BEHIND,
    Finished,
    as_died_after,
    build_trainer,
    finish,
    job,
    run_train,
    token_mean_loss,
)
from support.trainer.weights import assert_same_weights

pytestmark = [
    PEFT_IS_BEHIND,
    pytest.mark.filterwarnings(
        "ignore:Setting `save_embedding_layers` to `True` as embedding layers found:UserWarning"
    ),
]
NF4 = Quantization(bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.FLOAT32)
ADAPTER = f"{layout.OUTPUT_ADAPTER}/adapter_model.safetensors"
SETTINGS = f"{layout.OUTPUT_ADAPTER}/adapter_config.json"
FIELD = "method.lora.extra.init_lora_weights: loftq"
IDS = torch.tensor([[5, 9, 4, 11, 7, 6, 10]])


def method(**changes: Any) -> Method:
    return lora(**{"rank": 16, "quantization": NF4, "extra": {"init_lora_weights": "loftq"}, **changes})


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS, use_cache=False).logits
    return found


def base(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def products(model: Any) -> dict[str, torch.Tensor]:
    """The scale of each layer times B A."""
    return {name: layer.get_delta_weight("default").detach() for name, layer in loftq.adapted_layers(model)}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose layers have their weights transposed, and without the model's own part of their names."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from support.trainer.tiny import POSITIONS, VOCABULARY, write_tokenizer

    directory = write_tokenizer(tmp_path_factory.mktemp("gpt2"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = {"vocab_size": VOCABULARY, "n_positions": POSITIONS, "n_embd": 64, "n_layer": 1, "n_head": 4}
        GPT2LMHeadModel(GPT2Config(**settings, eos_token_id=2, bos_token_id=None)).save_pretrained(directory)
    weights = load_file(directory / "model.safetensors")
    renamed = {name.removeprefix("transformer."): tensor for name, tensor in weights.items()}
    save_file(renamed, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.fixture(scope="module")
def trained(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    targets = ("embed_tokens", "q_proj", "v_proj", "down_proj")
    config = job(llama, method=method(target_modules=targets), max_steps=4, save_every=2, learning_rate=1e-2)
    merged = replace(config, output=replace(config.output, merge_adapter=True))
    return finish(tmp_path_factory.mktemp("loftq"), merged)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_it_begins_nearer_to_the_model_than_quantization_alone(
    tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(name)
    plain, begun = (
        build_trainer(tmp_path / kind, job(model, method=method(extra=extra), max_steps=2)).model
        for kind, extra in (("plain", {}), ("loftq", {"init_lora_weights": "loftq"}))
    )
    wanted = logits(base(model))

    errors = [float((logits(one) - wanted).norm()) for one in (plain, begun)]

    assert errors[1] < 0.8 * errors[0]
    assert {weights.dtype for found, weights in begun.named_parameters() if "lora_" in found} == {torch.float32}


def test_it_is_what_peft_computes_where_alpha_is_the_rank(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PEFT brings the weights to a GPU, which is not there."""
    from peft import replace_lora_weights_loftq

    moved = torch.Tensor.to

    def stays(tensor: torch.Tensor, *args: Any, **named: Any) -> torch.Tensor:
        return moved(tensor, *args, **{name: value for name, value in named.items() if name != "device"})

    found = products(build_trainer(tmp_path / "ours", job(llama, method=method(alpha=16), max_steps=2)).model)
    plain = build_trainer(tmp_path / "plain", job(llama, method=method(alpha=16, extra={}), max_steps=2)).model

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", stays)
        replace_lora_weights_loftq(plain, model_path=str(llama))

    assert len(found) == 14
    for name, product in products(plain).items():
        torch.testing.assert_close(found[name], product, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("shape", "rank"), [((6, 9), 3), ((9, 6), 3), ((4, 8), 6)])
def test_b_a_is_the_nearest_matrix_of_its_rank(shape: tuple[int, int], rank: int) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)

    a, b = nearest_low_rank(matrix, rank)

    assert (a.shape, b.shape) == ((rank, shape[1]), (shape[0], rank))
    torch.testing.assert_close(b @ a, u[:, :rank] * s[:rank] @ v[:rank], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(a.norm(), b.norm())


def test_the_published_adapter_fits_the_base_as_it_is(llama: Path, trained: Finished) -> None:
    from peft import PeftModel

    assert trained.outcome.output is not None, trained.outcome.message
    loaded = PeftModel.from_pretrained(base(llama), str(trained.volume / layout.OUTPUT_ADAPTER))
    metrics = trained.outcome.output.metrics
    settings = json.loads((trained.volume / SETTINGS).read_text())

    assert (settings["r"], settings["lora_alpha"], settings["init_lora_weights"]) == (32, 64, True)
    assert token_mean_loss(loaded.eval(), trained) == pytest.approx(metrics["mergedEvalLoss"], abs=1e-4)
    assert metrics["mergedEvalLoss"] == pytest.approx(metrics["evalLoss"], abs=0.02)
    assert metrics["evalLoss"] < metrics["initialEvalLoss"] - 0.05
    assert "initial_adapter.safetensors" not in {path.name for path in (trained.volume / SETTINGS).parent.iterdir()}


def test_a_run_resumes_as_if_undisturbed_and_computes_nothing_again(
    trained: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = as_died_after(2, trained, tmp_path / "died")
    monkeypatch.setattr(loftq, "initialize", None)

    outcome = run_train(volume, trained.config, attempt=2)

    assert outcome.exit_code is ExitCode.DONE, outcome.message
    assert_same_weights(trained.volume / ADAPTER, volume / ADAPTER, atol=1e-5)


def test_every_process_takes_what_the_leader_found(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader = {"base_model.model.model.layers.0.self_attn.q_proj": (torch.ones(16, 32), torch.ones(32, 16))}
    monkeypatch.setattr(World, "broadcast", lambda self, value: leader)  # noqa: ARG005

    model = build_trainer(tmp_path, job(llama, method=method(target_modules=("q_proj",)), max_steps=2)).model

    first, second = products(model).values()
    assert torch.equal(first, torch.full((32, 32), 32.0))
    assert not second.any()


NEEDS = f"{FIELD} needs method.quantization with bits: 4 and type: nf4, "


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"quantization": None}, f"{NEEDS}which is missing: write it, or remove this"),
        ({"quantization": replace(NF4, bits=8)}, f"{NEEDS}not bits: 8: change that, or remove this"),
        (
            {"quantization": replace(NF4, type=QuantizationType.FP4)},
            f"{NEEDS}not type: fp4: change that, or remove this",
        ),
        (
            {"dora": True},
            f"{FIELD} cannot be combined with method.lora.dora: the adapter could not be published for the bas",
        ),
        (
            {"extra": {"init_lora_weights": "loftq", "loftq_config": {"loftq_iter": 2}}},
            "method.lora.extra.loftq_config cannot be set here: set method.quantization, of which LoftQ takes one ste",
        ),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_name(changes: dict[str, Any], sentence: str) -> None:
    found = list(problems(run_config(model="/m", dataset="/d", method=method(**changes))))

    assert len(found) == 1
    assert found[0].startswith(sentence)


def test_a_base_that_is_quantized_already_has_no_weights_to_compare_with() -> None:
    config = run_config(model="/m", dataset="/d", method=method())

    with pytest.raises(StageError, match=f"remove {FIELD}, which needs the weights before they were quanti"):
        check_base(config, BaseQuantization(method="bitsandbytes", bits=4))


def test_names_that_the_files_do_not_have_are_known_in_prepare(llama: Path, tmp_path: Path) -> None:
    other = shutil.copytree(llama, tmp_path / "other")
    weights = load_file(llama / "model.safetensors")
    save_file({name.replace("k_proj", "key"): tensor for name, tensor in weights.items()}, other / "model.safetensors")
    config = job(llama, method=method(), max_steps=2)

    assert find_refusal(config, llama) is None
    assert find_refusal(config, other) == (
        f"{FIELD}: the model's files do not have model.layers.0.self_attn.k_proj.weight under this name, so it cannot "
        "be compared with what was quantized; remove it"
    )


def test_weights_of_another_model_are_refused(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loftq, "_read", lambda file, key: -load_file(file)[key])

    with pytest.raises(
        StageError, match="weights in the files of the model differ from those that were loaded"
    ) as told:
        build_trainer(tmp_path, job(llama, method=method(), max_steps=2))

    assert told.value.reason is Reason.CONFIG_INVALID
