"""Other resources of a run: memory of its container, and space on its volume."""

import math
from typing import Final

from sftjob_contract.layout import PVC_SCHEME
from sftjob_contract.reports.model_shape import ModelShape
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.destinations import MergeDtype
from sftjob_operator.plan.dtypes import compute_bytes, trained_bytes, weight_bytes
from sftjob_operator.plan.memory import gpu_memory
from sftjob_operator.plan.optimizer import OptimizerBytes, optimizer_bytes
from sftjob_operator.plan.tensors import initial_adapter_parameters, trainable_parameters, trained_tensors

CPU_PROCESS_BYTES: Final = 550 << 20
"""Python with PyTorch, transformers and TRL imported: 548 MiB measured with torch 2.13 and trl 1.16."""
GPU_PROCESS_BYTES: Final = 2 << 30
"""The same with CUDA initialized: about 2 GB (https://github.com/pytorch/pytorch/issues/113326)."""
_TOKEN_BYTES: Final = 8
"""A token and its label on the volume, 4 bytes each."""
_HALF: Final = 2
_FP32: Final = 4


def host_memory_bytes(config: RunConfig, shape: ModelShape, row_tokens: int) -> int:
    """Return the peak memory of a Train Pod's container, without /dev/shm and without reclaimable file cache.

    Each process loads the model into host memory before it moves to its GPU, except a quantized one, which is read
    tensor by tensor. Later, safetensors copies everything that it saves (`safetensors.torch.save_file`). The prepared
    data is mapped and not counted, nor is the working set of a merge.
    """
    if not config.gpus:
        return CPU_PROCESS_BYTES + gpu_memory(config, shape, row_tokens).total
    loaded = 0 if config.method.quantization is not None else shape.parameters * weight_bytes(config) * config.gpus
    paged = _states(config, shape).pageable * config.gpus
    return config.gpus * GPU_PROCESS_BYTES + max(loaded, paged + _saved_bytes(config, shape))


def checkpoint_bytes(config: RunConfig, shape: ModelShape) -> int:
    """Return the size of a checkpoint: model or adapter, and optimizer states; a tokenizer's few MB are not counted."""
    return _saved_bytes(config, shape) + _initial_bytes(config, shape) + _states(config, shape).total


def disk_bytes(config: RunConfig, shape: ModelShape, stats: PreparedStats, *, caches_on_volume: bool) -> int:
    """Return the peak use of the job's volume: downloaded model, prepared data, checkpoints and output.

    There are `keep` checkpoints, the best one and one in progress, but no more than the run saves. Of a model only the
    loaded weight files are downloaded, once, however often a repository contains the same weights. An external dataset
    is not counted, since only its tokens are known.
    """
    source = config.model.source
    is_remote = "://" in source and not source.startswith(PVC_SCHEME)  # neither on a claim nor in the image
    downloaded = shape.weight_bytes if caches_on_volume and is_remote else 0
    held_out = stats.tokens * stats.evaluation_rows // max(1, stats.train_rows)  # of average length
    prepared = _TOKEN_BYTES * (stats.tokens + held_out)
    return downloaded + prepared + training_disk_bytes(config, shape, stats)


def training_disk_bytes(config: RunConfig, shape: ModelShape, stats: PreparedStats) -> int:
    """Return the part of `disk_bytes` that training adds to what Prepare left: checkpoints and output."""
    most = min(config.checkpoints.keep + 2, _saves(config, stats))
    published = _saved_bytes(config, shape) + _initial_bytes(config, shape)
    output = published + 2 * _merged_bytes(config, shape)  # the merge works on the disk
    return most * checkpoint_bytes(config, shape) + output


def _saves(config: RunConfig, stats: PreparedStats) -> int:
    """Count the checkpoints of a run, including the last step's."""
    checkpoints = config.checkpoints
    if checkpoints.every_steps is not None:
        return math.ceil(stats.max_steps / checkpoints.every_steps)
    epochs = stats.max_steps / max(1, stats.steps_per_epoch)
    return min(stats.max_steps, math.ceil(epochs * (checkpoints.per_epoch or 1)))


def _saved_bytes(config: RunConfig, shape: ModelShape) -> int:
    """Return the size of the adapter, or of the whole model, whatever part of it is trained."""
    if config.method.lora is None:
        return shape.parameters * weight_bytes(config)
    return trainable_parameters(config.method, shape) * trained_bytes(config)


def _initial_bytes(config: RunConfig, shape: ModelShape) -> int:
    """Return the size of the initial adapter in a checkpoint, by which the adapter also grows when published."""
    return initial_adapter_parameters(config.method, shape) * _FP32


def _merged_bytes(config: RunConfig, shape: ModelShape) -> int:
    """Return the size of the merged model, which has 16 bits a weight unless the steps had more."""
    if not config.output.merge_adapter:
        return 0
    wanted = config.output.merge_dtype
    if wanted is not None:
        return shape.parameters * (_FP32 if wanted is MergeDtype.FLOAT32 else _HALF)
    return shape.parameters * max(_HALF, compute_bytes(config))


def _states(config: RunConfig, shape: ModelShape) -> OptimizerBytes:
    return optimizer_bytes(config.training.optimizer, trained_tensors(config.method, shape), trained_bytes(config))
