"""Output heads: logits from a model's last hidden states, for losses that do not materialize all logits at once."""

from dataclasses import dataclass
from typing import Any, Final

import torch

CHUNK_TOKENS: Final = 512
"""Number of tokens whose logits over the whole vocabulary exist at the same time."""
_PROBE: Final = (3, 1, 4, 1, 5)


@dataclass(frozen=True, kw_only=True)
class OutputHead:
    """How a model computes logits from its last hidden states: a linear layer, a factor, a soft cap (Gemma 2)."""

    linear: Any
    scale: float
    cap: float | None

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits in fp32 of `hidden`, (tokens, hidden size)."""
        logits: torch.Tensor = self.linear(hidden).float() * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    @property
    def plain(self) -> bool:
        """Whether the head is only the linear layer."""
        return type(self.linear) is torch.nn.Linear and self.scale == 1.0 and self.cap is None


def find_output_head(model: Any) -> OutputHead | None:
    """The head of `model`; None if a test on a few tokens shows that the model computes its logits differently."""
    settings = model.config.get_text_config()
    factor = getattr(settings, "logit_scale", None)
    divisor = getattr(settings, "logits_scaling", None)
    scale = (1.0 if factor is None else float(factor)) / (1.0 if divisor is None else float(divisor))
    head = OutputHead(
        linear=model.get_output_embeddings(), scale=scale, cap=getattr(settings, "final_logit_softcapping", None)
    )
    return head if _reproduces_logits(head, model) else None


def last_hidden_states(model: Any, decoder: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Last hidden states of `model` for `inputs`, (batch, length, hidden size). The head sees one position only.

    `decoder` is the part of `model` below the head; `model` may be wrapped.
    """
    found: list[torch.Tensor] = []
    hook = decoder.register_forward_hook(lambda _module, _inputs, output: found.append(output.last_hidden_state))
    try:
        model(**{**inputs, "use_cache": False}, logits_to_keep=1)
    finally:
        hook.remove()
    return found[0]


def _reproduces_logits(head: OutputHead, model: Any) -> bool:
    """Whether `head` reproduces the logits of `model`; the computation differs between families."""
    training = model.training
    model.eval()
    ids = torch.tensor([_PROBE], device=model.device)
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0].float()
            found = head(last_hidden_states(model, model.get_decoder(), {"input_ids": ids})[0])
        return bool(torch.allclose(found, logits, rtol=1e-2, atol=1e-2 * float(logits.abs().max())))
    except (TypeError, AttributeError):
        return False
    finally:
        model.train(training)
