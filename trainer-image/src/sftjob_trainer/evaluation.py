"""TRL's trainer with an evaluation loss that is the mean over tokens, whatever the batch size."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.data import DataLoader, RandomSampler
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

from sftjob_trainer.sampling import LongestFirst, RowsThenFilling
from sftjob_trainer.tokenization import NOT_TRAINED
from sftjob_trainer.world import World


class Trainer(SFTTrainer):
    """SFTTrainer that weights every evaluation batch by its trained tokens, and can break off an evaluation.

    transformers averages the batches' means, so a short last batch counts as much as a full one and the loss depends on
    how rows were batched. `broken_off` is asked before each evaluation batch; once it says yes, the rest is passed over
    and the evaluation has no loss.
    """

    def __init__(
        self,
        *,
        broken_off: Callable[[], bool],
        fetching: Callable[[], AbstractContextManager[None]],
        world: World,
        rows: int,
        **arguments: Any,
    ) -> None:
        """`rows` of the training data are real, those after them only fill batches up.

        `fetching` is entered while the batches of a step are fetched.
        """
        super().__init__(**arguments)
        self._fetching = fetching
        self._broken_off = broken_off
        self._world = world
        self._rows = rows
        self._loss_sum = 0.0
        self._tokens = 0
        self._passed_over = 0

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
