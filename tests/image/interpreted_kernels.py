"""Kernels of TRL and Liger in Triton's interpreter, compared with PyTorch on a CPU. Runs in the image for CUDA."""

import torch
import torchao
from liger_kernel.ops import rope
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from trl.kernels import chunked_logprob

TOLERANCE = 1e-5


def main() -> None:
    torch.manual_seed(0)
    print(f"torchao {torchao.__version__}: imported")
    print(f"liger rope: {error_of_rope():.1e}")
    print(f"trl chunked_logprob: {error_of_logprob():.1e}")


def agreed(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    worst = max(float((ours - theirs).abs().max()) for ours, theirs in pairs)
    if worst > TOLERANCE:
        raise SystemExit(f"off by {worst}")
    return worst


def error_of_rope() -> float:
    """Of rotary embeddings. Liger's norm and MLP cannot be interpreted: they call a method of a float."""
    queries, keys = torch.randn(2, 4, 6, 16), torch.randn(2, 2, 6, 16)
    angles = torch.randn(1, 6, 8).repeat(1, 1, 2)
    found = []
    for rotate in (rope.LigerRopeFunction.apply, apply_rotary_pos_emb):
        query, key = queries.clone().requires_grad_(), keys.clone().requires_grad_()
        rotated = rotate(query * 1, key * 1, angles.cos(), angles.sin())  # Liger's writes over its inputs
        ((rotated[0] * torch.linspace(-1, 1, 16)).sum() + rotated[1].square().sum()).backward()
        found.append((rotated[0].detach(), rotated[1].detach(), query.grad, key.grad))
    return agreed(list(zip(*found, strict=True)))


def error_of_logprob() -> float:
    """Of the loss kernel that TRL uses on a GPU: tokens of 3 tiles of a vocabulary, the last one not full."""
    states, head, targets = torch.randn(6, 16), torch.randn(100, 16), torch.randint(100, (6,))
    found = []
    for log_probabilities in (trl_log_probabilities, torch_log_probabilities):
        hidden, weight = states.clone().requires_grad_(), head.clone().requires_grad_()
        chosen = log_probabilities(hidden, weight, targets)
        chosen.sum().backward()
        found.append((chosen.detach(), hidden.grad, weight.grad))
    return agreed(list(zip(*found, strict=True)))


def trl_log_probabilities(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    chunked_logprob._use_triton = lambda _device: True
    apply = chunked_logprob.ChunkedLogProbFunction.apply
    return apply(hidden, weight, None, targets, 1.0, 40, None, 1.0, ())[0]


def torch_log_probabilities(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (hidden @ weight.T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]


if __name__ == "__main__":
    main()
