"""TRL's trainer where ours is another: the evaluation loss, the order of rows, and the loss on a CPU."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.nn import LinearCrossEntropyOptions, functional
from torch.utils.data import DataLoader, RandomSampler
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

from sftjob_trainer.heads import CHUNK_TOKENS, Head, head_of, last_hidden_states
from sftjob_trainer.sampling import LongestFirst, RowsThenFilling
from sftjob_trainer.tokenization import NOT_TRAINED
from sftjob_trainer.trained_weights import train_in_fp32
from sftjob_trainer.world import World

logger = logging.getLogger(__name__)


class Trainer(SFTTrainer):
    """SFTTrainer that weights every evaluation batch by its trained tokens, and can break off an evaluation.

    transformers averages the batches' means, so a short last batch counts as much as a full one and the loss depends on
    how rows were batched. `broken_off` is asked before each evaluation batch; once it says yes, the rest is passed over
    and the evaluation has no loss.

    On a CPU the same loss is computed in another way (docs/adr/0021).
    """

    optimizer: Any
    label_smoother: Any

    def __init__(
        self,
        *,
        broken_off: Callable[[], bool],
        fetching: Callable[[], AbstractContextManager[None]],
        world: World,
        rows: int,
        loraplus_lr_ratio: float | None = None,
        **arguments: Any,
    ) -> None:
        """`rows` of the training data are real, those after them only fill batches up.

        `fetching` is entered while the batches of a step are fetched. `loraplus_lr_ratio` as in the run config.
        """
        super().__init__(**arguments)
        self._fetching = fetching
        self._broken_off = broken_off
        self._world = world
        self._rows = rows
        self._loraplus_lr_ratio = loraplus_lr_ratio
        self._loss_sum = 0.0
        self._tokens = 0
        self._passed_over = 0
        self._seen_tokens = 0
        if hasattr(self.model, "peft_config"):
            train_in_fp32(self.model)
        with self.accelerator.autocast():  # the weights that are trained may be of another dtype than the frozen ones
            self._own_head, why = self._head_on_cpu()
        logger.info("cross entropy computed by %s: %s", "TRL" if self._own_head is None else "PyTorch", why)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The mean cross entropy over the trained tokens, of the whole optimizer step where their number is given.

        Labels are smoothed in training only, so that evaluations measure what those of any other run do.
        """
        if self._own_head is None or return_outputs:
            smoother = self.label_smoother
            try:
                self.label_smoother = smoother if self.model.training else None
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            finally:
                self.label_smoother = smoother
        hidden = self.hidden_states(model, {name: value for name, value in inputs.items() if name != "labels"})
        return self.mean_loss(cross_entropy(hidden, self._own_head, inputs["labels"]), inputs, num_items_in_batch)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer; with LoRA+, the rates of B are larger than those of A.

        PEFT makes that of the class and the options that transformers would take. Its weight decay is 0 by default.
        """
        if self._loraplus_lr_ratio is None or self.optimizer is not None:
            made: torch.optim.Optimizer = super().create_optimizer(model)
            return made
        from peft.optimizers import create_loraplus_optimizer

        kind, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        if not isinstance(kind, type) or not options.keys().isdisjoint(("params", "model", "optimizer_dict")):
            raise ValueError(f"LoRA+ makes groups of weights of its own, which {self.args.optim.value} does too")
        self.optimizer = create_loraplus_optimizer(
            self.model,
            kind,
            loraplus_lr_ratio=self._loraplus_lr_ratio,
            loraplus_weight_decay=self.args.weight_decay,
            loraplus_lr_embedding=self.args.learning_rate,
            **options,
        )
        return self.optimizer

    def hidden_states(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """What the layers of `model`, wrapped or not, make of `inputs`: (batch, length, hidden size)."""
        return last_hidden_states(model, self.accelerator.unwrap_model(model).get_decoder(), inputs)

    def mean_loss(
        self, total: torch.Tensor, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        """The mean of a loss that was summed over the trained tokens of a batch; in training, the batch is counted.

        Gradients are averaged over the devices, and the items are counted over all of them.
        """
        if self.model.training:
            mask = inputs.get("attention_mask")
            self._seen_tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())
        if num_items_in_batch is None:
            return total / (inputs["labels"][:, 1:] != NOT_TRAINED).sum().clamp(min=1)
        return total * self.accelerator.num_processes / torch.as_tensor(num_items_in_batch).clamp(min=1)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What TRL's own loss would have counted is added: `num_tokens`, non-padding ones since the attempt began."""
        if "loss" in logs and self._seen_tokens:
            logs["num_tokens"] = self._world.sums([self._seen_tokens])[0]
        super().log(logs, start_time)

    def get_batch_samples(self, *arguments: Any, **options: Any) -> tuple[list[Any], Any]:
        """The batches of a step, and how many tokens are trained in them."""
        with self._fetching():
            batches: tuple[list[Any], Any] = super().get_batch_samples(*arguments, **options)
        return batches

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Any, Any, Any]:
        """One evaluation batch: the mean loss over its trained tokens, and no predictions."""
        if self._broken_off():
            self._passed_over += 1
            return torch.zeros((), device=self.args.device), None, None
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        tokens = int((inputs["labels"][..., 1:] != NOT_TRAINED).sum())
        self._loss_sum += loss.item() * tokens
        self._tokens += tokens
        return loss, logits, labels

    def evaluation_loop(
        self, dataloader: DataLoader[Any], description: str, *arguments: Any, **options: Any
    ) -> EvalLoopOutput:
        """An evaluation whose `*_loss` is the token mean; without that metric when it was broken off."""
        self._loss_sum, self._tokens, self._passed_over = 0.0, 0, 0
        output = super().evaluation_loop(dataloader, description, *arguments, **options)
        key = f"{options.get('metric_key_prefix', 'eval')}_loss"
        metrics = {name: value for name, value in output.metrics.items() if name != key}
        loss_sum, tokens = self._world.sums([self._loss_sum, self._tokens])
        if tokens and not self._passed_over:
            metrics[key] = loss_sum / tokens
        return output._replace(metrics=metrics)

    def _head_on_cpu(self) -> tuple[Head | None, str]:
        """The head whose loss is not left to TRL, if there is one, and why."""
        if self.args.device.type != "cpu":
            return None, "it has a kernel for GPUs"
        if self.model.device.type == "meta":
            return None, "the model has no weights"
        if self.args.loss_type != "nll" or self.args.label_smoothing_factor or self.aux_loss_enabled:
            return None, "it is not the cross entropy alone"
        if self.args.torch_compile:
            return None, "the model is compiled"
        head = head_of(self.model)
        if head is None or not head.plain:
            return None, "logits are more than a linear layer of the last hidden states"
        return head, "a CPU trains"

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The order of rows; of several processes, the one that a single process would have."""
        sampler = super()._get_train_sampler(train_dataset)
        batches = self._world.size * self.args.gradient_accumulation_steps
        padded = batches > 1 and not self.args.packing
        if not isinstance(sampler, RandomSampler) or (self._world.size == 1 and not padded):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        order = RowsThenFilling(
            rows=self._rows, total=len(self.train_dataset), seed=seed, epoch=lambda: int(self.state.epoch or 0)
        )
        if not padded:
            return order
        return LongestFirst(order, rows=self.train_dataset, step_rows=batches * self.args.per_device_train_batch_size)


def cross_entropy(hidden: torch.Tensor, head: Head, labels: torch.Tensor) -> torch.Tensor:
    """The loss in fp32, summed over the trained tokens, with a plain head.

    `hidden` are last hidden states (batch, length, hidden size), `labels` (batch, length) those of the positions
    themselves, each predicted by the position before it. Logits exist for CHUNK_TOKENS tokens at a time.
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
