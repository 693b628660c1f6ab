"""Build a model with another model's code and a few thousand weights, to test on a CPU how the code behaves."""

from collections.abc import Mapping
from typing import Any, Final

_VOCABULARY: Final = 64
_WIDTH, _HEADS, _HEAD = 32, 4, 8
_SIZES: Final[Mapping[str, int]] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "word_embed_proj_dim", "lru_width", "conv_dim"), _WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "attention_heads", "linear_num_value_heads"), _HEADS),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "block_ff_dim"), 2 * _WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"), _WIDTH),
    **dict.fromkeys(("intermediate_size_mlp", "moe_shared_expert_intermediate_size"), _WIDTH),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_topk", "linear_num_key_heads", "n_group", "topk_group"), 2),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), _HEAD),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "rotary_dim", "attention_head_size"), _HEAD),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), _HEADS),
    **dict.fromkeys(("mamba_d_state", "ssm_state_size", "state_size"), 16),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("mamba_n_groups", "n_groups", "mamba_ngroups", "adapter_rank"), 1),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank"), 4),
    **dict.fromkeys(("mamba_d_ssm", "mamba_intermediate_size"), 2 * _WIDTH),
    "head_dim": _HEAD,
    "global_head_dim": _HEAD,
    "vocab_size": _VOCABULARY,
    "vocab_size_per_layer_input": _VOCABULARY,
    "hidden_size_per_layer_input": _HEAD,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "max_seq_len": 64,
}
"""Names of sizes in transformers' configs."""
_LAYERS: Final = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_LISTS: Final = ("layer_types", "layers_block_type", "mlp_layer_types", "layer_rec_types", "no_rope_layers")
"""One entry per layer."""
_TOKENS: Final = ("pad_token_id", "bos_token_id", "eos_token_id")


def small_model(config: Any, attention: str | None = None) -> Any | None:
    """A model of random weights whose config differs from `config` only in sizes; None if it cannot be built."""
    import torch
    from transformers import AutoModelForCausalLM

    given = {} if attention is None else {"attn_implementation": attention}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for sizes in _attempts(config):
            try:
                return AutoModelForCausalLM.from_config(type(config)(**sizes), dtype=torch.float32, **given)
            except Exception:  # noqa: BLE001, S112 -- a config's own checks may raise anything
                continue
    return None


def _attempts(config: Any) -> list[dict[str, Any]]:
    """Arguments of the config's class: with a separate head size, and with that of the larger heads of Mamba 2."""
    given = config.to_dict()
    mapped = {name: alias for alias, name in type(config).attribute_map.items()}
    sizes = {name: size for name, size in _SIZES.items() if name in given and isinstance(given[name], int)}
    depth = {}
    for names in _LISTS:
        if isinstance(given.get(names), list) and given[names]:
            depth[names] = _one_of_each(given[names])
    layers = max([2, *(len(kinds) for kinds in depth.values())])
    depth = {name: (kinds * layers)[:layers] for name, kinds in depth.items()}
    counts = {name: layers for name in _LAYERS if isinstance(given.get(name), int)}
    for name in ("num_key_value_heads", "num_kv_heads"):
        if isinstance(given.get(name), int):
            sizes[name] = _HEADS if given[name] == given.get("num_attention_heads") else 2
    tokens = dict.fromkeys((name for name in _TOKENS if given.get(name) is not None), 2)
    base = {**_without(given, mapped), **sizes, **depth, **counts, **tokens}
    mamba = {**base, "head_dim": 16, "num_heads": 4}
    bare = {name: value for name, value in base.items() if name != "head_dim"}
    return [base, mamba, bare]


def _one_of_each(kinds: list[Any]) -> list[Any]:
    """One entry of each kind of a per-layer list, in the order of first appearance."""
    return list(dict.fromkeys(kinds)) if all(isinstance(kind, str | int) for kind in kinds) else kinds[:2]


def _without(given: dict[str, Any], mapped: Mapping[str, str]) -> dict[str, Any]:
    """`given` without what follows from sizes, or belongs to the whole model's dtype and files."""
    dropped = {"dtype", "torch_dtype", "quantization_config", "transformers_version", "architectures", *mapped.values()}
    return {name: value for name, value in given.items() if name not in dropped - mapped.keys()}
