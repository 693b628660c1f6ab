"""The base model, its tokenizer and its chat template."""

from typing import Annotated

from pydantic import ConfigDict, Field

from sftjob_contract.run.config import Attention, ChatTemplateName, ModelDtype, PaddingSide
from sftjob_contract.run.rope import RopeType
from sftjob_operator.api.types import Extra, Model, rule, rules
from sftjob_operator.api.v1alpha1.sources import (
    REVISION_ON_HUB,
    ConfigMapKeyRef,
    ModelSource,
    Revision,
    SecretKeyRef,
    SecretRef,
)


class ChatTemplateSpec(Model):
    """A chat template: exactly one of name, jinja and configMapKeyRef."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "[has(self.name), has(self.jinja), has(self.configMapKeyRef)].filter(given, given).size() == 1",
                "must have exactly one of name, jinja and configMapKeyRef: remove the others, or remove chatTemplate "
                "for the model's own",
            )
        )
    )

    name: ChatTemplateName | None = None
    """One of the trainer's own templates, which mark what the assistant writes."""
    jinja: Annotated[str, Field(min_length=1, max_length=16384)] | None = None
    """The template itself."""
    config_map_key_ref: ConfigMapKeyRef | None = None
    """Key of a ConfigMap that holds the template."""


class RopeScalingSpec(Model):
    """Scaling of rotary position embeddings (RoPE), so that the model has more positions than it was trained with."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.type == 'yarn' || !(has(self.attentionFactor) || has(self.betaFast) || has(self.betaSlow))",
                "attentionFactor, betaFast and betaSlow are for type: yarn only: remove them",
            ),
            rule(
                "self.type == 'llama3' || !(has(self.lowFreqFactor) || has(self.highFreqFactor))",
                "lowFreqFactor and highFreqFactor are for type: llama3 only: remove them",
            ),
            rule(
                "self.type != 'linear' || !has(self.originalMaxPositionEmbeddings)",
                "originalMaxPositionEmbeddings is for type: yarn and type: llama3 only: remove it",
            ),
            rule(
                "(has(self.betaSlow) ? self.betaSlow : 1.0) < (has(self.betaFast) ? self.betaFast : 32.0)",
                "betaSlow (1 by default) must be below betaFast (32 by default)",
            ),
            rule(
                "(has(self.lowFreqFactor) ? self.lowFreqFactor : 1.0) "
                "< (has(self.highFreqFactor) ? self.highFreqFactor : 4.0)",
                "lowFreqFactor (1 by default) must be below highFreqFactor (4 by default)",
            ),
        )
    )

    type: RopeType
    """How frequencies are scaled. transformers: rope_type."""
    factor: Annotated[float, Field(gt=1, le=1024)]
    """The model has this many times its positions. transformers: factor."""
    original_max_position_embeddings: Annotated[int, Field(ge=1, le=16777216)] | None = None
    """Positions that the model was trained with, for yarn and llama3. Absent: max_position_embeddings of its config.
    transformers: original_max_position_embeddings."""
    attention_factor: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Scale of attention, for yarn. Absent: 0.1 ln(factor) + 1. transformers: attention_factor."""
    beta_fast: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Rotations above which a frequency stays as it is, for yarn. Absent: 32. transformers: beta_fast."""
    beta_slow: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Rotations below which a frequency is divided by factor, for yarn. Absent: 1. transformers: beta_slow."""
    low_freq_factor: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Rotations below which a frequency is divided by factor, for llama3. Absent: 1. transformers: low_freq_factor."""
    high_freq_factor: Annotated[float, Field(gt=0, le=1000)] | None = None
    """Rotations above which a frequency stays as it is, for llama3. Absent: 4. transformers: high_freq_factor."""


AddedTokens = Annotated[
    tuple[
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=64,
                json_schema_extra=rules(
                    rule("self.matches('^\\\\S+$')", "must be a token without white space, such as <|tool|>")
                ),
            ),
        ],
        ...,
    ],
    Field(max_length=256, json_schema_extra={"x-kubernetes-list-type": "set"}),
]
"""Tokens to add to the tokenizer."""


class ModelSpec(Model):
    """The model to start from."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            REVISION_ON_HUB,
            rule(
                "!has(self.addedTokens) || !has(self.addedSpecialTokens) "
                "|| !self.addedTokens.exists(token, token in self.addedSpecialTokens)",
                "a token must be in one of addedTokens and addedSpecialTokens: remove it from the other",
            ),
        )
    )

    source: ModelSource
    """Where the model is: ORG/NAME or hf://ORG/NAME on the hub, pvc://CLAIM/PATH, an s3://, gs:// or https:// URI,
    or an absolute path in the image. transformers: pretrained_model_name_or_path."""
    revision: Revision | None = None
    """Branch, tag or commit on the hub. Absent: the default branch as it is when the job prepares. transformers:
    revision."""
    dtype: ModelDtype = ModelDtype.AUTO
    """Dtype that weights are loaded in. auto: fp32 for weights that are trained, and for frozen ones that of the steps.
    transformers: dtype."""
    attention: Attention = Attention.AUTO
    """Implementation of attention. auto: the fastest that image and GPU have; packed rows document by document.
    transformers: attn_implementation."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model, or that dataset.preprocessing.function names. Only for code that you
    have read. transformers: trust_remote_code."""
    chat_template: ChatTemplateSpec | None = None
    """How messages become text. Absent: the model's own template. TRL: chat_template_path."""
    chat_template_kwargs: Extra = Field(default_factory=dict)
    """Arguments of the chat template for every row, as keyword arguments of transformers' apply_chat_template, such as
    enable_thinking: false. A name that the template does not read is rejected."""
    add_eos_token: bool = True
    """Close each text and completion with the end-of-sequence token, so that the model learns to stop. AutoTrain:
    add_eos_token."""
    padding_side: PaddingSide = PaddingSide.RIGHT
    """Side on which short rows of a batch are padded. AutoTrain: padding."""
    rope_scaling: RopeScalingSpec | None = None
    """Give the model more positions than it was trained with, for a longer training.maxLength. The config of the output
    has it. Absent: the positions of the model."""
    added_tokens: AddedTokens = ()
    """Tokens to add to the tokenizer; each becomes one token id. The embedding grows where it has no rows for them, and
    is trained with any method. Tokens that the tokenizer already has do not change. Axolotl: tokens."""
    added_special_tokens: AddedTokens = ()
    """The same for special tokens, which are left out where generated text is shown. LLaMA-Factory:
    add_special_tokens."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret with a hub token, for private and gated models and for the teacher. Only the Prepare Pod sees it."""
    secret_ref: SecretRef | None = None
    """Secret whose keys become environment variables of the Prepare Pod, for s3://, gs:// and https:// sources of the
    model, its teacher and checkpoints.resumeFrom: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and the
    like."""
