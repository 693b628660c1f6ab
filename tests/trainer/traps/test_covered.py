"""Every trap of the libraries below ours, and every number that has to come out right, with the tests that hold it.

Each name is `file::test`, the file relative to tests/trainer. Tests of a theme of their own lie here and show what the
libraries do by themselves; the others were there before, beside what they test.
"""

import ast
from functools import cache
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parent.parent

DATA, PACKING, SAVING = "traps/test_data_and_labels.py", "traps/test_packing.py", "traps/test_saving_and_resuming.py"
SILENT, QUANTIZED, NAMES = "traps/test_silent_success.py", "traps/test_quantization.py", "traps/test_names.py"
PROCESSES, CODES = "traps/test_processes.py", "test_exit_codes.py"

TRAPS: Final = {
    "messages are trained on every token": (
        f"{DATA}::test_system_and_user_are_not_trained_where_trl_trains_every_token",
    ),
    "a template without generation markers is refused": (
        f"{DATA}::test_a_template_without_markers_is_enough_where_trl_refuses_it",
    ),
    "completion_only_loss does nothing on messages": (
        f"{DATA}::test_a_loss_on_completions_is_refused_for_conversations_where_trl_ignores_it",
    ),
    "speakers of ShareGPT are not mapped": (
        f"{DATA}::test_speakers_of_sharegpt_become_roles_where_trl_writes_them_as_they_are",
    ),
    "conversations of role and content, and alpaca, are a KeyError": (
        f"{DATA}::test_a_shape_is_known_where_trl_misses_a_text_column",
    ),
    "no rows, null, mixed shapes, messages as JSON text, all rows cut: obscure errors": (
        f"{DATA}::test_bad_rows_are_told_with_their_line_where_trl_raises_something_obscure",
        "prepare/test_bad_data.py::test_bad_data_is_told_with_file_and_line",
    ),
    "empty text, two shapes in a row, no assistant: trained in silence": (
        f"{DATA}::test_doubtful_rows_are_refused_where_trl_trains_on_something",
    ),
    "rows lose their end, or are dropped, in silence": (
        f"{DATA}::test_rows_that_are_cut_or_left_out_are_counted_where_trl_says_nothing",
        "labels/test_in_prepare.py::test_rows_that_are_all_cut_before_their_end_end_the_job",
    ),
    "the stop token lies outside of what is trained": (
        "labels/test_own_template.py::test_markers_that_leave_the_stop_token_out_are_completed",
        "labels/test_label_report.py::test_a_template_that_closes_turns_with_another_token_is_refused",
    ),
    "the end of line after the last turn is trained": (
        "prepare/test_as_trl.py::test_every_loss_of_every_shape_is_that_of_trl",
    ),
    "a token over the boundary of prompt and completion": (
        "labels/test_losses.py::test_a_token_over_the_boundary_belongs_to_the_completion",
    ),
    "messages without a chat template": ("labels/test_own_template.py::test_messages_need_a_chat_template",),
    "chat_template_path resizes the embeddings": (
        f"{DATA}::test_a_given_template_leaves_the_vocabulary_alone_where_trl_resizes_it",
    ),
    "AutoTokenizer replaces the pre-tokenizer": (
        f"{DATA}::test_a_tokenizer_that_transformers_makes_otherwise_is_told_where_it_is_silent",
    ),
    "no padding token": (f"{DATA}::test_a_tokenizer_without_padding_still_learns_to_stop",),
    "packed documents see each other": (
        f"{PACKING}::test_a_plain_forward_pass_mixes_packed_documents_and_ours_does_not",
        "train/test_packing.py::test_a_packed_document_gets_the_logits_that_it_gets_alone",
    ),
    "the first token of a packed document is predicted": (
        "train/test_packing.py::test_no_document_is_trained_to_follow_from_the_one_before",
    ),
    "packed batches cost the square of their length": (
        f"{PACKING}::test_a_step_attends_within_one_sequence_where_trl_attends_over_the_whole_batch",
        "train/test_packing.py::test_one_packed_sequence_at_a_time_is_the_same_training_as_a_batch_of_them",
    ),
    "packing refuses another collator": (
        f"{PACKING}::test_packing_goes_with_padding_on_the_left_where_trl_refuses_another_collator",
    ),
    "wrapped sequences are rows like any other": (
        "train/test_training_options.py::test_a_run_on_wrapped_sequences_trains_on_every_token",
    ),
    "flex attention has no backward pass on the CPU, flash attention is not there": (
        "train/test_hardware.py::test_what_machine_or_image_do_not_have_is_refused_in_a_sentence",
        f"{CODES}::test_what_can_not_be_trained_ends_with_its_code_reason_and_sentence",
    ),
    "the evaluation loss depends on the batch size": (
        "train/test_evaluation.py::test_transformers_own_evaluation_loss_does_depend_on_it",
        "train/test_evaluation.py::test_the_evaluation_loss_does_not_depend_on_how_rows_are_batched",
    ),
    "names that are gone": (
        f"{NAMES}::test_a_name_that_is_gone_is_told_before_anything_is_imported_where_trl_raises",
        "train/test_extra.py::test_what_can_not_be_passed_on_is_told_by_name",
    ),
    "TRL's defaults need a GPU": (
        f"{NAMES}::test_trls_defaults_need_a_gpu",
        "train/test_methods.py::test_auto_precision_is_fp32_without_a_gpu",
    ),
    "weights of a bf16 model are loaded as fp32": (
        "train/test_hardware.py::test_trained_weights_are_fp32_and_frozen_ones_are_as_precise_as_the_step",
        "train/test_hardware.py::test_weights_loaded_as_bf16_are_trained_and_saved_as_bf16",
    ),
    "Liger fails at the first step without a GPU, and leaves patches": (
        "train/test_hardware.py::test_auto_takes_the_fast_kernels_that_image_and_gpu_have",
        "train/test_hardware.py::test_what_machine_or_image_do_not_have_is_refused_in_a_sentence",
    ),
    "options of sharding and backends pass by the resource": (
        "train/test_extra.py::test_every_argument_that_the_trainer_sets_itself_is_refused",
        "train/test_extra.py::test_every_refused_field_exists_and_is_refused_once",
    ),
    "LoRA on the output head, or on a layer that is not there": (
        f"{SILENT}::test_peft_passes_over_a_layer_that_is_not_there",
        "train/test_lora_options.py::test_a_name_that_is_no_layer_is_refused_with_the_names_that_are",
        "train/test_methods.py::test_what_a_model_cannot_do_is_refused_in_a_sentence",
    ),
    "quantized weights alone cannot be trained": (
        "prepare/test_configuration.py::test_a_config_that_can_not_be_run_is_refused",
    ),
    "an evaluation spoils the gradients of 4-bit weights": (
        f"{QUANTIZED}::test_an_evaluation_spoils_the_gradients_of_a_stock_run",
        "train/test_methods.py::test_an_evaluation_in_between_leaves_gradients_of_a_quantized_model_alone",
        "train/test_methods.py::test_bitsandbytes_still_decides_about_repacking_by_the_attribute_that_is_turned_off",
    ),
    "a merge into 4-bit weights is another model": (
        f"{QUANTIZED}::test_a_merge_into_quantized_weights_is_another_model",
        "train/test_merge.py::test_the_merged_model_computes_what_base_and_adapter_do",
    ),
    "an adapter names a path of the container": (
        "train/test_methods.py::test_the_adapter_names_the_model_as_the_user_did_and_no_path_of_the_container",
    ),
    "missing weights become random numbers": (
        f"{CODES}::test_weights_that_are_damaged_or_not_all_there_can_not_be_trained",
    ),
    "saved weights can be read by one user only": (
        f"{SAVING}::test_weights_can_be_read_by_others_where_transformers_keeps_them_to_itself",
        "train/test_run.py::test_every_file_left_behind_can_be_read_by_another_user",
    ),
    "a model card of TRL is left in the output": (
        f"{SAVING}::test_the_model_card_tells_the_results_where_trls_says_what_trl_is",
        "train/test_run.py::test_nothing_half_done_and_nothing_for_resuming_is_left_in_the_output",
    ),
    "checkpoints are not atomic, and half of one is taken for the last": (
        f"{SAVING}::test_a_half_written_checkpoint_is_passed_over_where_transformers_takes_it_for_the_last",
        "train/test_checkpoints.py::test_a_checkpoint_half_written_is_no_checkpoint_and_is_cleared_away",
    ),
    "a missing optimizer state is accepted in silence": (
        f"{SAVING}::test_a_checkpoint_without_its_optimizer_is_passed_over_where_transformers_trains_on_in_silence",
        "train/test_resume.py::test_a_damaged_newest_checkpoint_is_passed_over_told_and_replaced",
    ),
    "a flipped bit is loaded": (f"{SAVING}::test_a_flipped_bit_is_found_where_transformers_loads_it",),
    "resuming without a checkpoint is an error": (
        f"{SAVING}::test_an_attempt_without_a_checkpoint_begins_where_transformers_gives_up",
        "train/test_resume.py::test_with_no_checkpoint_that_verifies_the_run_begins_anew",
    ),
    "a completed run is trained one step further": (
        f"{SAVING}::test_transformers_trains_a_completed_run_one_step_further",
        "train/test_resume.py::test_a_completed_run_is_not_trained_further_but_only_brought_to_its_end",
    ),
    "the token count starts again after a resume": (
        f"{SAVING}::test_trl_counts_tokens_from_zero_after_a_resume",
        "train/test_resume.py::test_what_was_known_survives",
    ),
    "stale checkpoints of higher numbers confuse rotation": (
        "train/test_checkpoints.py::test_a_broken_checkpoint_is_deleted_only_once_a_newer_one_is_complete",
    ),
    "a resumed run must take the steps of an undisturbed one": (
        "train/test_resume.py::test_a_resumed_run_takes_the_steps_that_an_undisturbed_one_takes",
        "train/test_resume.py::test_this_holds_for_every_way_to_train",
    ),
    "a stopped run looks like success": (
        f"{SAVING}::test_transformers_own_stop_looks_like_success",
        "train/test_process.py::test_a_trainer_that_is_told_to_stop_saves_says_so_and_asks_to_be_run_again",
        "train/test_stop.py::test_the_run_stops_at_the_step_edge_with_a_checkpoint_and_goes_on_later",
    ),
    "processes that do not find one another each train everything": (
        f"{PROCESSES}::test_two_stock_processes_without_use_cpu_each_believe_to_be_the_only_one",
        "train/test_processes.py::test_two_processes_train_what_one_trains_with_batches_twice_as_large",
        "train/test_processes.py::test_the_pods_of_two_nodes_train_what_one_process_trains_and_the_first_leaves_the_result",
    ),
    "a stop that only one process is asked for is a deadlock": (
        f"{PROCESSES}::test_of_two_stock_processes_one_that_is_asked_to_stop_and_the_other_wait_for_each_other",
        "train/test_processes.py::test_a_stop_that_one_process_is_asked_for_stops_all_at_a_step_from_which_they_go_on_as_if_undisturbed",
    ),
    "a launcher ends with 1 whatever its processes end with": (
        f"{PROCESSES}::test_a_launcher_ends_with_one_whatever_its_process_ends_with",
        "train/test_processes.py::test_a_process_that_is_killed_ends_the_others_and_the_pod_as_if_it_were_the_only_one",
        "train/test_processes.py::test_the_verdict_is_that_of_the_process_with_a_reason_of_its_own_or_of_the_first_that_failed",
    ),
    "divergence is logged as a loss of zero and ends well": (
        f"{SILENT}::test_a_stock_run_that_diverges_ends_well_with_a_loss_of_zero",
        "train/test_failures.py::test_a_run_that_diverges_ends_before_it_saves_nonsense",
    ),
    "fewer rows than a batch: no step, and a success": (
        f"{SILENT}::test_a_stock_run_that_drops_its_only_batch_takes_no_step",
        f"{CODES}::test_zero_means_that_every_step_was_trained",
        f"{CODES}::test_what_can_not_be_prepared_ends_with_its_code_reason_and_sentence",
    ),
    "logged values are text": ("train/test_run.py::test_metrics_have_a_line_for_each_log_and_each_evaluation",),
    "nothing is reported unless asked for": ("train/test_tracking.py::test_nothing_is_written_unless_asked_for",),
    "libraries call home": (
        "traps/test_network.py::test_trl_calls_home_when_a_trainer_is_made",
        f"{CODES}::test_both_processes_end_with_zero_after_one_step_and_ask_for_no_address",
        "prepare/test_main.py::test_libraries_go_online_only_to_fetch_from_a_hub",
    ),
    "checking the config imports everything": (
        f"{CODES}::test_a_config_is_refused_before_anything_heavy_is_imported",
        "prepare/test_main.py::test_an_invalid_config_ends_the_stage_before_anything_heavy_is_imported",
        "train/test_extra.py::test_checking_imports_neither_torch_nor_the_libraries_themselves",
    ),
}

ISOLATION: Final = "numerics/test_packing_isolation.py"
VARLEN: Final = "numerics/test_varlen_attention.py"
NUMBERS: Final = {
    "documents that are packed together are computed as alone, or the job is refused": (
        f"{ISOLATION}::test_packed_documents_stay_apart_or_the_probe_says_so",
        f"{ISOLATION}::test_what_prepare_takes_unprobed_keeps_documents_apart_in_either_attention",
        f"{ISOLATION}::test_the_probe_says_the_same_of_a_model_in_16_bits",
        f"{ISOLATION}::test_a_model_whose_positions_go_on_over_documents_is_found",
        f"{ISOLATION}::test_prepare_refuses_to_pack_what_does_not_stay_apart",
        f"{ISOLATION}::test_nothing_is_tried_where_nothing_is_in_doubt",
        f"{ISOLATION}::test_where_a_kernel_for_gpus_may_keep_documents_apart_train_decides",
        f"{ISOLATION}::test_train_refuses_a_loaded_model_that_does_not_keep_documents_apart",
    ),
    "documents that are computed one by one are computed as alone, or the model keeps its own attention": (
        f"{VARLEN}::test_documents_are_computed_as_alone_by_eager_attention_or_the_model_keeps_its_own",
        f"{VARLEN}::test_a_sliding_window_that_a_model_passes_to_its_attention_holds_in_packed_rows",
        f"{VARLEN}::test_a_model_whose_window_is_only_in_its_mask_keeps_its_own_attention",
        f"{VARLEN}::test_of_the_model_types_that_prepare_takes_unprobed_all_but_one_attend_by_document",
        f"{VARLEN}::test_rows_with_padding_and_generation_are_computed_as_by_sdpa",
        f"{VARLEN}::test_pytorchs_kernel_is_given_what_the_computation_on_a_cpu_uses",
        f"{VARLEN}::test_a_model_with_dropout_of_attention_keeps_its_own_on_a_gpu_which_has_no_kernel_for_it",
        f"{VARLEN}::test_a_model_whose_attention_is_in_chunks_keeps_its_own_since_only_its_mask_has_them",
    ),
    "packed logits equal unpacked ones, in every attention of the CPU": (
        "numerics/test_packed_attention.py::test_packed_logits_equal_unpacked_ones",
        "numerics/test_packed_attention.py::test_they_do_in_flex_attention_which_has_no_gradients_on_a_cpu",
        "train/test_packing.py::test_a_packed_document_gets_the_logits_that_it_gets_alone",
    ),
    "accumulation of 8 x 1 equals 1 x 8": (
        "train/test_training_options.py::test_eight_small_batches_are_the_same_step_as_one_large",
        "train/test_sampling.py::test_the_losses_are_those_of_the_order_as_it_was_drawn",
        "numerics/test_steps.py::test_weights_after_eight_small_batches_a_step_are_those_after_one_large",
    ),
    "the evaluation loss is the mean over tokens, whatever the batch": (
        "train/test_evaluation.py::test_the_evaluation_loss_does_not_depend_on_how_rows_are_batched",
        "numerics/test_steps.py::test_the_evaluation_loss_is_the_mean_over_tokens_by_definition",
    ),
    "gradients of QLoRA are unchanged by an evaluation": (
        "train/test_methods.py::test_an_evaluation_in_between_leaves_gradients_of_a_quantized_model_alone",
    ),
    "two processes train what one trains": (
        "train/test_processes.py::test_two_processes_train_what_one_trains_with_batches_twice_as_large",
        "train/test_out_of_memory.py::test_of_two_processes_one_runs_out_and_both_go_on_with_smaller_micro_batches",
    ),
    "the loss of distillation equals its definition in float64": (
        "train/test_distillation.py::test_the_loss_is_that_of_the_formula",
        "train/test_distillation.py::test_the_loss_of_a_step_is_the_mean_over_its_trained_tokens",
    ),
    "merged equals unmerged": ("train/test_merge.py::test_the_merged_model_computes_what_base_and_adapter_do",),
    "the learning rate follows its formula": (
        "train/test_training_options.py::test_the_learning_rate_follows_its_formula",
        "train/test_run.py::test_the_learning_rate_rises_for_the_warmup_and_falls_as_half_a_cosine",
    ),
    "the number of steps is the one told beforehand": (
        "train/test_arguments.py::test_the_number_of_steps_told_beforehand_is_the_one_transformers_arrives_at",
        "prepare/test_plan.py::test_steps_follow_from_sequences_batch_and_epochs",
    ),
    "gradient checkpointing computes the same": (
        "train/test_methods.py::test_gradient_checkpointing_computes_the_same",
    ),
}


@cache
def functions_of(file: Path) -> frozenset[str]:
    """Names of the tests of a module."""
    body = ast.parse(file.read_text(encoding="utf-8")).body
    return frozenset(one.name for one in body if isinstance(one, ast.FunctionDef) and one.name.startswith("test_"))


@pytest.mark.parametrize("name", [*TRAPS, *NUMBERS])
def test_its_tests_are_there(name: str) -> None:
    found = {**TRAPS, **NUMBERS}[name]

    assert found
    for test in found:
        file, _, function = test.partition("::")
        assert function in functions_of(TESTS / file), test


def test_every_test_of_a_trap_is_listed() -> None:
    listed = {test for found in {**TRAPS, **NUMBERS}.values() for test in found}
    written = {
        f"{directory}/{file.name}::{test}"
        for directory in ("traps", "numerics")
        for file in (TESTS / directory).glob("test_*.py")
        if file.name != Path(__file__).name
        for test in functions_of(file)
    }

    assert written <= listed, sorted(written - listed)
