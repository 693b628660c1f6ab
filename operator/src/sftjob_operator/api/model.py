"""The model to start from, and how text becomes its tokens."""

from typing import Annotated

from pydantic import ConfigDict, Field

from sftjob_contract.config import Attention, ChatTemplateName, ModelDtype, PaddingSide
from sftjob_operator.api.sources import (
    REVISION_ON_HUB,
    ConfigMapKeyRef,
    ModelSource,
    Revision,
    SecretKeyRef,
    SecretRef,
)
from sftjob_operator.api.types import Extra, Model, rule, rules


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


class ModelSpec(Model):
    """The model to start from."""

    model_config = ConfigDict(json_schema_extra=rules(REVISION_ON_HUB))

    source: ModelSource
    """Where the model lies: ORG/NAME or hf://ORG/NAME on the hub, pvc://CLAIM/PATH, an s3://, gs:// or https:// URI,
    or an absolute path in the image. transformers: pretrained_model_name_or_path."""
    revision: Revision | None = None
    """Branch, tag or commit on the hub. Absent: the default branch as it is when the job prepares. transformers:
    revision."""
    dtype: ModelDtype = ModelDtype.AUTO
    """Dtype that weights are loaded in. auto: fp32 for weights that are trained, and for frozen ones that of the steps.
    transformers: dtype."""
    attention: Attention = Attention.AUTO
    """Implementation of attention. auto: the fastest that image and GPU have. transformers: attn_implementation."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model, or that dataset.preprocessing.function names. Only for code that you
    have read. transformers: trust_remote_code."""
    chat_template: ChatTemplateSpec | None = None
    """How messages become text. Absent: the model's own template. TRL: chat_template_path."""
    chat_template_kwargs: Extra = Field(default_factory=dict)
    """Arguments of the chat template for every row, as keyword arguments of transformers' apply_chat_template, such as
    enable_thinking: false. A name that the template does not read is refused."""
    add_eos_token: bool = True
    """Close each text and completion with the end-of-sequence token, so that the model learns to stop. AutoTrain:
    add_eos_token."""
    padding_side: PaddingSide = PaddingSide.RIGHT
    """Where short rows of a batch are filled up. AutoTrain: padding."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret with a hub token, for private and gated models and for the teacher. Only the Prepare Pod sees it."""
    secret_ref: SecretRef | None = None
    """Secret whose keys become environment variables of the Prepare Pod, for s3://, gs:// and https:// sources of the
    model, its teacher and checkpoints.resumeFrom: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and the
    like."""
