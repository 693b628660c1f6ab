"""TRL's trainer with the project's own evaluation loss, row order, and loss on a CPU."""

import logging
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import torch
from torch.nn import LinearCrossEntropyOptions, functional
from torch.utils.data import DataLoader, RandomSampler
from transformers import PreTrainedModel
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer
from trl.trainer import add_fused_lm_head

from sftjob_trainer.distributed.world import World
from sftjob_trainer.models.output_head import CHUNK_TOKENS, OutputHead, find_output_head, last_hidden_states
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED
from sftjob_trainer.training.sampling import LongestFirstSampler, PaddedRandomSampler
from sftjob_trainer.training.trained_weights import train_in_fp32

logger = logging.getLogger(__name__)


class RunHooks(Protocol):
    """The parts of a run that its trainer calls."""

    @property
    def world(self) -> World:
        """The processes that train together."""

    def agree_to_stop(self) -> bool:
        """Whether to stop, decided by all processes at a common point."""

    def fetching(self) -> AbstractContextManager[None]:
        """Wrap fetching the batches of a step."""


class Trainer(SFTTrainer):
    """SFTTrainer that weights every evaluation batch by its trained tokens, and can interrupt an evaluation.

    transformers averages the batches' means. A short last batch then counts as much as a full one, and the loss depends
    on how rows were batched. A stop request is checked before each evaluation batch; once there is one, the rest is
    skipped and the evaluation has no loss.

    The same loss is computed without TRL's metrics, and on a CPU by PyTorch (docs/adr/0021).
    """

    args: SFTConfig
    model: PreTrainedModel
    """With LoRA a PeftModel, which has the same interface."""
    train_dataset: Any
    label_smoother: Any

    def __init__(
        self,
        *,
        hooks: RunHooks,
        rows: int,
        loraplus_lr_ratio: float | None = None,
        **arguments: Any,
    ) -> None:
        """The first `rows` rows of the training data are real; those after them only pad batches.

        `loraplus_lr_ratio` as in the run config.
        """
        super().__init__(**arguments)
        self._fetching = hooks.fetching
        self._is_interrupted = hooks.agree_to_stop
        self._world = hooks.world
        self._rows = rows
        self._loraplus_lr_ratio = loraplus_lr_ratio
        self._loss_sum = 0.0
        self._tokens = 0
        self._skipped_batches = 0
        self._seen_tokens: torch.Tensor | int = 0
        if hasattr(self.model, "peft_config"):
            train_in_fp32(self.model)
        with self.accelerator.autocast():  # trained weights may have another dtype than the frozen ones
            self._own_head, reason = self._head_on_cpu()
        self._fused_head = self._own_head is None and self._is_cross_entropy_alone()
        if self._fused_head:
            adapted: Any = self.model
            add_fused_lm_head(adapted.get_base_model() if hasattr(adapted, "peft_config") else adapted)
        logger.info("cross entropy computed by %s: %s", "TRL" if self._own_head is None else "PyTorch", reason)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean cross entropy over the trained tokens; of the whole optimizer step if their number is given.

        Label smoothing applies only in training, so that evaluations are comparable with those of any other run.
        """
        if return_outputs or not (self._own_head or self._fused_head):
            smoother = self.label_smoother
            try:
                self.label_smoother = smoother if self.model.training else None
                return super().compute_loss(  # type: ignore[no-untyped-call]
                    model, inputs, return_outputs, num_items_in_batch
                )
            finally:
                self.label_smoother = smoother
        if self._own_head is None:
            log_probs = model(**inputs, fused_lm_head=True).log_probs  # 0 for tokens that are not trained
            return self.mean_loss(-log_probs.sum(), inputs, num_items_in_batch)
        hidden = self.hidden_states(model, {name: value for name, value in inputs.items() if name != "labels"})
        return self.mean_loss(cross_entropy(hidden, self._own_head, inputs["labels"]), inputs, num_items_in_batch)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer; with LoRA+, the learning rates of B are larger than those of A.

        PEFT builds the LoRA+ optimizer with the class and options that transformers would use. Its weight decay is 0 by
        default.
        """
        if self._loraplus_lr_ratio is None or self.optimizer is not None:
            optimizer: torch.optim.Optimizer = super().create_optimizer(model)
            return optimizer
        from peft import PeftModel
        from peft.optimizers import create_loraplus_optimizer

        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        if not isinstance(optimizer_class, type) or not options.keys().isdisjoint(
            ("params", "model", "optimizer_dict")
        ):
            name = getattr(self.args.optim, "value", self.args.optim)
            raise ValueError(f"LoRA+ creates parameter groups, which {name} does too")
        built: torch.optim.Optimizer = create_loraplus_optimizer(
            cast("PeftModel", self.model),
            optimizer_class,
            loraplus_lr_ratio=self._loraplus_lr_ratio,
            loraplus_weight_decay=self.args.weight_decay,
            loraplus_lr_embedding=self.args.learning_rate,
            **options,
        )
        self.optimizer = built
        return built

    def hidden_states(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """Last hidden states of `model`, wrapped or not, for `inputs`: (batch, length, hidden size)."""
        return last_hidden_states(model, self.accelerator.unwrap_model(model).get_decoder(), inputs)

    def mean_loss(
        self, total: torch.Tensor, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The mean of a loss summed over the trained tokens of a batch; in training, also counts the batch.

        Gradients are averaged over the devices, and items are counted over all of them. The count stays on the device:
        reading it would wait for the GPU.
        """
        if self.model.training:
            mask = inputs.get("attention_mask")
            self._seen_tokens = self._seen_tokens + (inputs["input_ids"].numel() if mask is None else mask.sum())
        if num_items_in_batch is None:
            trained: torch.Tensor = (inputs["labels"][:, 1:] != NOT_TRAINED).sum()
            return total / trained.clamp(min=1)
        devices: int = self.accelerator.num_processes
        return total * devices / torch.as_tensor(num_items_in_batch).clamp(min=1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what TRL's own loss would have counted: `num_tokens`, the non-padding tokens since the attempt began."""
        if "loss" in logs and (seen := int(self._seen_tokens)):
            logs["num_tokens"] = self._world.all_reduce_sum([seen])[0]
        super().log(logs, start_time)

    def get_batch_samples(self, *arguments: Any, **options: Any) -> tuple[list[Any], Any]:
        """The batches of a step, and the number of trained tokens in them."""
        with self._fetching():
            batches: tuple[list[Any], Any] = super().get_batch_samples(*arguments, **options)
        return batches

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """Run one evaluation batch: the mean loss over its trained tokens, and no predictions."""
        if self._is_interrupted():
            self._skipped_batches += 1
            return torch.zeros((), device=self.args.device), None, None
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        tokens = int((inputs["labels"][..., 1:] != NOT_TRAINED).sum())
        self._loss_sum += loss.item() * tokens
        self._tokens += tokens
        return loss, logits, labels

    def evaluation_loop(
        self, dataloader: DataLoader[Any], description: str, *arguments: Any, **options: Any
    ) -> EvalLoopOutput:
        """Run an evaluation whose `*_loss` is the token mean; without that metric if it was interrupted."""
        self._loss_sum, self._tokens, self._skipped_batches = 0.0, 0, 0
        output = super().evaluation_loop(dataloader, description, *arguments, **options)
        key = f"{options.get('metric_key_prefix', 'eval')}_loss"
        metrics = {name: value for name, value in (output.metrics or {}).items() if name != key}
        loss_sum, tokens = self._world.all_reduce_sum([self._loss_sum, self._tokens])
        if tokens and not self._skipped_batches:
            metrics[key] = loss_sum / tokens
        return output._replace(metrics=metrics)

    def _head_on_cpu(self) -> tuple[OutputHead | None, str]:
        """The head whose loss this class computes instead of TRL, if any, and the reason."""
        if self.args.device.type != "cpu":
            return None, "it has a kernel for GPUs"
        if self.model.device.type == "meta":
            return None, "the model has no weights"
        if not self._is_cross_entropy_alone():
            return None, "it is not the cross entropy alone"
        if self.args.torch_compile:
            return None, "the model is compiled"
        head = find_output_head(self.model)
        if head is None or not head.plain:
            return None, "logits are more than a linear layer of the last hidden states"
        return head, "training runs on the CPU"

    def _is_cross_entropy_alone(self) -> bool:
        return self.args.loss_type == "nll" and not self.args.label_smoothing_factor and not self.aux_loss_enabled

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The order of rows; with several processes, the one that a single process would have."""
        sampler = super()._get_train_sampler(train_dataset)
        batches = self._world.size * self.args.gradient_accumulation_steps
        padded = batches > 1 and not self.args.packing
        if not isinstance(sampler, RandomSampler) or (self._world.size == 1 and not padded):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        order = PaddedRandomSampler(
            rows=self._rows, total=len(self.train_dataset), seed=seed, epoch=lambda: int(self.state.epoch or 0)
        )
        if not padded:
            return order
        return LongestFirstSampler(
            order, rows=self.train_dataset, step_rows=batches * self.args.per_device_train_batch_size
        )


def cross_entropy(hidden: torch.Tensor, head: OutputHead, labels: torch.Tensor) -> torch.Tensor:
    """The loss in fp32, summed over the trained tokens, with a plain head.

    `hidden` are last hidden states (batch, length, hidden size). `labels` (batch, length) are those of the positions
    themselves; each is predicted by the position before it. Logits exist for CHUNK_TOKENS tokens at a time.
    """
    targets = labels[:, 1:]
    trained = targets != NOT_TRAINED
    bias = head.linear.bias
    with torch.autocast(hidden.device.type, enabled=False):
        loss: torch.Tensor = functional.linear_cross_entropy(
            hidden[:, :-1][trained].float(),
            head.linear.weight.float(),
            targets[trained],
            linear_bias=None if bias is None else bias.float(),
            reduction="sum",
            options=LinearCrossEntropyOptions(batch_chunk_size=CHUNK_TOKENS, chunking_method=None),
        )
    return loss
