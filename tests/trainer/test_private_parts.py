"""What the trainer uses of its libraries without a promise of theirs: the tests that hold it, and its versions.

A library may change such a part in any minor release, so each of these libraries has an upper bound.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import sftjob_trainer
from support.jobs.manifests import ROOT

TESTS: Final = Path(__file__).parent
SOURCES: Final = sorted((ROOT / "trainer-image" / "src" / "sftjob_trainer").rglob("*.py"))
LIBRARIES: Final = ("accelerate", "peft", "torch", "transformers", "trl")

PRIVATE: Final = {
    "transformers": {
        "Trainer._get_train_sampler": "train/test_sampling.py::test_the_losses_are_those_of_the_order_as_it_was_drawn",
        "model.config._attn_implementation": "train/test_hardware.py::test_the_model_computes_attention_as_asked",
        "model._supports_flash_attn": (
            "numerics/test_varlen_attention.py::"
            "test_documents_are_computed_as_alone_by_eager_attention_or_the_model_keeps_its_own"
        ),
        "model._weight_conversions": (
            "train/test_quantized_base.py::test_every_weight_of_a_dequantized_base_is_trained_and_saved_unquantized"
        ),
    },
}
"""Names with an underscore: methods that are overridden, and attributes of objects."""

UNEXPORTED: Final = {
    "peft": {
        "peft.optimizers.create_loraplus_optimizer": (
            "train/test_lora_options.py::test_lora_plus_gives_b_a_larger_learning_rate_than_a"
        ),
        "peft.tuners.lora.Linear4bit": (
            "train/test_loftq.py::test_it_begins_nearer_to_the_model_than_quantization_alone"
        ),
        "peft.tuners.lora.LoraLayer": "train/test_merge.py::test_the_merged_model_computes_what_base_and_adapter_do",
        "peft.tuners.lora.ParamWrapper": "train/test_eva.py::test_adapters_of_experts_are_refused_in_prepare",
    },
    "transformers": {
        "transformers.integrations.bitsandbytes.replace_with_bnb_linear": (
            "prepare/test_construction.py::test_what_the_libraries_take_is_not_refused"
        ),
        "transformers.integrations.sdpa_attention.sdpa_attention_forward": (
            "numerics/test_varlen_attention.py::test_rows_with_padding_and_generation_are_computed_as_by_sdpa"
        ),
        "transformers.masking_utils.sdpa_mask": (
            "numerics/test_varlen_attention.py::test_rows_with_padding_and_generation_are_computed_as_by_sdpa"
        ),
        "transformers.trainer_utils.EvalLoopOutput": (
            "train/test_evaluation.py::test_the_evaluation_loss_does_not_depend_on_how_rows_are_batched"
        ),
        "transformers.utils.chat_template_utils.render_jinja_template": (
            "labels/test_own_template.py::test_markers_that_leave_the_stop_token_out_are_completed"
        ),
    },
    "trl": {
        "trl.trainer.add_fused_lm_head": (
            "train/test_cross_entropy.py::"
            "test_logits_that_are_more_than_a_linear_layer_go_through_trls_head_without_its_metrics"
        ),
        "trl.trainer.sft_trainer.DataCollatorForLanguageModeling": (
            "traps/test_packing.py::test_packing_goes_with_padding_on_the_left_where_trl_refuses_another_collator"
        ),
    },
}
"""Imported from a module of the library, which does not offer them itself."""

OF_PYTHON: Final = {"os._exit", "sys._current_frames", "output._replace"}
"""Documented in spite of their names; the last is of named tuples."""


def attributes() -> Iterator[str]:
    """Attributes with an underscore of objects other than one's own, as the source has them."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and re.match("_(?!_)", node.attr):
                owner = ast.unparse(node.value)
                if owner not in ("self", "cls", "super()"):
                    yield f"{owner}.{node.attr}"


def our_classes() -> Iterator[type]:
    """Every class of the trainer."""
    for module in pkgutil.walk_packages(sftjob_trainer.__path__, "sftjob_trainer."):
        if not module.name.endswith("__main__"):
            found = vars(importlib.import_module(module.name)).values()
            yield from (one for one in found if inspect.isclass(one) and one.__module__.startswith("sftjob_trainer."))


def foreign_bases(ours: type) -> list[type]:
    return [base for base in inspect.getmro(ours) if base.__module__.partition(".")[0] in LIBRARIES]


def overridden() -> Iterator[str]:
    """Private methods of a library's class that a class of the trainer overrides."""
    for ours in our_classes():
        for name in vars(ours):
            if (
                re.match("_(?!_)", name)
                and callable(vars(ours)[name])
                and (theirs := [base for base in foreign_bases(ours) if name in vars(base)])
            ):
                yield f"{theirs[-1].__name__}.{name}"


def imported() -> Iterator[str]:
    """What is imported from a module of a library although the library itself does not offer it."""
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in LIBRARIES:
                library = importlib.import_module(node.module.partition(".")[0])
                public = library.__name__ == "torch" and not re.search(r"\._", f"{node.module}.{node.names[0].name}")
                yield from (
                    f"{node.module}.{n.name}" for n in node.names if not public and not hasattr(library, n.name)
                )


def test_every_private_part_that_is_used_is_listed() -> None:
    used = ({*attributes()} | {*overridden()}) - OF_PYTHON
    assert used == {name for names in PRIVATE.values() for name in names}
    assert {*imported()} == {name for names in UNEXPORTED.values() for name in names}


@pytest.mark.parametrize("name", [*PRIVATE["transformers"], *(name for names in UNEXPORTED.values() for name in names)])
def test_a_test_holds_it(name: str) -> None:
    listed = {name: test for parts in (PRIVATE, UNEXPORTED) for names in parts.values() for name, test in names.items()}
    file, _, function = listed[name].partition("::")
    assert f"\ndef {function}(" in (TESTS / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("library", sorted({*PRIVATE, *UNEXPORTED}))
def test_a_library_with_such_parts_is_bounded_to_the_minor_release_that_is_tested(library: str) -> None:
    project = tomllib.loads((ROOT / "trainer-image" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (bounds,) = (one.specifier for one in map(Requirement, project["dependencies"]) if one.name == library)
    installed = Version(version(library))
    assert installed in bounds
    assert Version(f"{installed.major}.{installed.minor + 1}") not in bounds


def test_no_attribute_of_ours_has_the_name_of_one_of_theirs() -> None:
    """A library that begins to use a name for itself would find our value there, or we its own."""
    stored = re.compile(r"self\.(_[a-z]\w*)(?:: [^=\n]+)? = ")
    for ours in our_classes():
        if bases := foreign_bases(ours):
            theirs = {name for base in bases for name in stored.findall(inspect.getsource(base))}
            assert not {*stored.findall(inspect.getsource(ours))} & theirs, ours
