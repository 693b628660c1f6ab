"""Locations of models, data and checkpoints, and the Secrets for access to them."""

from typing import Annotated, Final

from pydantic import AfterValidator, Field, JsonValue

from sftjob_contract.layout import ARCHIVE_MARK, DATA_FILE_ENDS, PVC_SCHEME, ClaimPath
from sftjob_operator.api.types import Model, ObjectName, rule, rules

_NAME: Final = "[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
_CLAIM: Final = "pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/.*)?"
_REMOTE: Final = "(s3|gs)://[a-z0-9][a-z0-9._-]+(/.*)?|https://[^/]+/.+"
_CREDENTIALS: Final = (
    "(?i)^[a-z0-9]+://[^/]*@"
    "|[?&]([^=&]*(token|signature|secret|password|credential|access_?key|api_?key)[^=&]*|sig|key)="
)
"""User and password before the host, and the query of a presigned URL."""


def _guards(instead: str) -> tuple[dict[str, JsonValue], ...]:
    """Rules of every location; `instead` names the field for credentials."""
    return (
        rule("!self.matches('(^|/)[.][.](/|$)')", "must not contain '..': name the place itself"),
        rule(
            f"!self.matches('{_CREDENTIALS}')",
            f"must hold no credentials, since everyone who may read the job can read them: {instead}",
        ),
    )


_SOURCE_GUARDS: Final = _guards("put them into a Secret and name it in secretRef or tokenSecretRef")


def on_hub(source: str) -> str:
    """CEL: `source` is a hub repository."""
    return f"({source}.startsWith('hf://') || !({source}.contains('://') || {source}.startsWith('/')))"


def may_have_splits(source: str) -> str:
    """CEL: `source` is a hub repository, or has no data file extension and so may be a folder."""
    is_file = f"{list(DATA_FILE_ENDS)}.exists(end, {source}.endsWith(end)) && !{source}.contains('{ARCHIVE_MARK}')"
    return f"({on_hub(source)} || !({is_file}))"


def remote(source: str) -> str:
    """CEL: access to `source` uses the variables of a secretRef."""
    return f"{source}.matches('^(s3|gs|https)://')"


REVISION_ON_HUB: Final = rule(
    f"!has(self.revision) || {on_hub('self.source')}",
    "revision is for a source on the hub only: remove it, or take the source from the hub",
)


def _readable(source: str) -> str:
    if source.startswith(PVC_SCHEME):
        ClaimPath.parse(source)
    return source


ModelSource = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=rules(
            rule(
                f"self.matches('^((hf://)?{_NAME}|{_CLAIM}|{_REMOTE}|/.+)$')",
                "must be ORG/NAME or hf://ORG/NAME for a model on the hub (gpt2 is openai-community/gpt2), "
                "pvc://CLAIM/PATH for one on a PersistentVolumeClaim, an s3://, gs:// or https:// URI, or an absolute "
                "path in the image such as /models/base",
            ),
            *_SOURCE_GUARDS,
        ),
    ),
    AfterValidator(_readable),
]
DatasetSource = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=rules(
            rule(
                f"self.matches('^({_NAME}|hf://{_NAME}(/.*)?|{_CLAIM}|{_REMOTE}|/.+)$') "
                "&& !self.matches('^[^/:]+/[^/]+[.](jsonl?|csv|parquet|arrow|txt)$')",
                "must be ORG/NAME or hf://ORG/NAME for a dataset on the hub (squad is rajpurkar/squad), "
                "hf://ORG/NAME/PATH for a file or folder of one, pvc://CLAIM/PATH for one on a PersistentVolumeClaim, "
                "an s3://, gs:// or https:// URI, or an absolute path in the image such as /data/train.jsonl",
            ),
            *_SOURCE_GUARDS,
        ),
    ),
    AfterValidator(_readable),
]
CheckpointSource = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=rules(
            rule(
                f"self.matches('^({_CLAIM}|(s3|gs)://[a-z0-9][a-z0-9._-]+/.+)$')",
                "must be pvc://CLAIM/PATH, or an s3:// or gs:// URI, of a checkpoint directory",
            ),
            *_guards("put them into a Secret and name it in model.secretRef"),
        ),
    ),
    AfterValidator(_readable),
]
UploadUri = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=rules(
            rule(
                "self.matches('^(s3|gs)://[a-z0-9][a-z0-9._-]+(/.*)?$')",
                "must be an s3:// or gs:// URI such as s3://bucket/models/support-bot",
            ),
            *_guards("put them into a Secret and name it in secretRef"),
        ),
    ),
]
HttpUrl = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=rules(
            rule(
                "self.matches('^https?://[^/?#@]+(/[^?#]*)?$')",
                "must be an http:// or https:// URL without credentials",
            )
        ),
    ),
]
Repository = Annotated[
    str,
    Field(
        max_length=256,
        json_schema_extra=rules(rule(f"self.matches('^{_NAME}$')", "must be ORG/NAME of a repository on the hub")),
    ),
]
Revision = Annotated[str, Field(min_length=1, max_length=256)]


class SecretKeyRef(Model):
    """A key of a Secret in the job's namespace."""

    name: ObjectName
    """Name of the Secret."""
    key: Annotated[
        str,
        Field(
            max_length=253,
            json_schema_extra=rules(
                rule(
                    "self.matches('^[-._a-zA-Z0-9]+$')",
                    "must be a key of the Secret: letters, digits, '-', '_' and '.'",
                )
            ),
        ),
    ]
    """Key within the Secret."""


class SecretRef(Model):
    """A Secret in the job's namespace whose keys become environment variables."""

    name: ObjectName
    """Name of the Secret."""


class ConfigMapKeyRef(Model):
    """A key of a ConfigMap in the job's namespace."""

    name: ObjectName
    """Name of the ConfigMap."""
    key: Annotated[
        str,
        Field(
            max_length=253,
            json_schema_extra=rules(
                rule(
                    "self.matches('^[-._a-zA-Z0-9]+$')",
                    "must be a key of the ConfigMap: letters, digits, '-', '_' and '.'",
                )
            ),
        ),
    ]
    """Key within the ConfigMap."""
