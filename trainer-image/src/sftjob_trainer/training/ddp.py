"""PyTorch's DistributedDataParallel: options that save time and memory, as the model allows."""

import logging
from typing import Any, Final

import torch

from sftjob_trainer.distributed.world import World

logger = logging.getLogger(__name__)

_PROBE: Final = (3, 1, 4, 1, 5)


def tune_ddp(trainer: Any, world: World) -> None:
    """Choose DDP's options for the model of `trainer`, which is not wrapped yet. Collective.

    Gradients are views of the buckets that are reduced, instead of copies. transformers lets DDP search every step for
    weights without a gradient, unless it checkpoints; where every trained weight has one, the search is left out.
    https://docs.pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html
    """
    if world.size == 1:
        return
    handler = trainer.accelerator.ddp_handler
    handler.gradient_as_bucket_view = True
    reason = "as configured"
    if trainer.args.ddp_find_unused_parameters is None:
        with trainer.accelerator.autocast():
            unused = world.any(leaves_weights_unused(trainer.model))
        handler.find_unused_parameters = unused
        reason = "some trained weights got no gradient" if unused else "every trained weight got a gradient"
    logger.info("DDP with find_unused_parameters %s: %s", handler.find_unused_parameters, reason)


def leaves_weights_unused(model: Any) -> bool:
    """Whether some trained weights of `model` may get no gradient: a few tokens show it, except for skipped layers."""
    if getattr(model.config.get_text_config(), "layerdrop", 0):
        return True
    ids = torch.tensor([_PROBE], device=model.device)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    unused = any(weights.requires_grad and weights.grad is None for weights in model.parameters())
    model.zero_grad(set_to_none=True)
    return unused
