"""TRL's SFTTrainer on the prepared data. The one module that brings model, data and training loop together."""

from pathlib import Path

import transformers
from datasets import load_from_disk
from transformers import PrinterCallback
from trl import SFTConfig

from sftjob_contract import layout
from sftjob_contract.reasons import Reason
from sftjob_trainer.arguments import sft_arguments
from sftjob_trainer.callbacks import RunCallback
from sftjob_trainer.checkpoints import ResumePoint
from sftjob_trainer.evaluation import Trainer
from sftjob_trainer.failure import Failure
from sftjob_trainer.model import load_model, lora_config, use_bf16
from sftjob_trainer.run import Run
from sftjob_trainer.tokenization import load_tokenizer


def fit(run: Run, model_directory: Path, point: ResumePoint) -> None:
    """Train from `point` to the last step, or to the step at which a stop was requested.

    Raises:
        Failure: the config does not suit model or machine, training diverged, or it was stopped.
    """
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.enable_propagation()
    transformers.utils.logging.disable_progress_bar()
    trainer = build(run, model_directory)
    metrics_path = run.volume / layout.METRICS
    metrics_path.parent.mkdir(parents=True, exist_ok=True)
    with metrics_path.open("a", encoding="utf-8", buffering=1) as metrics, run.stop:
        trainer.add_callback(RunCallback(run, metrics))
        trainer.train(resume_from_checkpoint=str(point.directory) if point.directory else None)
    if run.must_stop():
        raise run.stopped()


def build(run: Run, model_directory: Path) -> Trainer:
    """The trainer, with model and data loaded.

    Raises:
        Failure: the config does not suit model or machine.
    """
    config, step = run.config, run.telemetry.step
    bf16 = use_bf16(config)
    evaluation = load_from_disk(run.volume / layout.PREPARED_EVALUATION) if run.stats.evaluation_sequences else None
    model = load_model(model_directory, config, bf16=bf16)
    try:
        trainer = Trainer(
            broken_off=run.must_stop,
            model=model,
            args=SFTConfig(
                **sft_arguments(config, run.stats, output_dir=run.store.staging, bf16=bf16),
                eval_on_start=run.evaluates_at(step) and run.telemetry.eval_loss_at(step) is None,
            ),
            train_dataset=load_from_disk(run.volume / layout.PREPARED_TRAIN),
            eval_dataset=evaluation,
            processing_class=load_tokenizer(model_directory, trust_remote_code=config.model.trust_remote_code),
            peft_config=lora_config(config.method),
        )
    except ValueError as error:
        raise Failure(Reason.CONFIG_INVALID, f"this model can not be trained as asked: {error}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer
