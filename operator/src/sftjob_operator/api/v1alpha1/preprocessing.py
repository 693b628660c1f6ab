"""Preprocessing of rows, and validation of their answers."""

from typing import Annotated, Final

from pydantic import ConfigDict, Field

from sftjob_contract.run.config import Syntax
from sftjob_operator.api.types import Model, rule, rules
from sftjob_operator.api.v1alpha1.sources import ConfigMapKeyRef

FUNCTION_IN_CEL: Final = "__function__"
"""The field function, whose name is a reserved word in CEL."""

Jinja = Annotated[str, Field(min_length=1, max_length=8192)]
Argument = Annotated[str, Field(min_length=1, max_length=1024)]


class RowTemplateSpec(Model):
    """Jinja templates that see each column of a row by its name, and the whole row as row."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.text) ? !has(self.prompt) && !has(self.completion) "
                ": has(self.prompt) && has(self.completion)",
                "must have either text, or both prompt and completion: write prompt and completion to train on the "
                "completion alone",
            )
        )
    )

    text: Jinja | None = None
    """The whole text of a row, which is trained on."""
    prompt: Jinja | None = None
    """The part that is not trained on."""
    completion: Jinja | None = None
    """The part that is trained on."""


class RowFunctionSpec(Model):
    """A Python function that is called with each row, a dict, and returns a dict of columns, as datasets.map does."""

    config_map_key_ref: ConfigMapKeyRef
    """Key of a ConfigMap that holds the Python file. Only the Prepare Pod sees it."""
    name: (
        Annotated[
            str,
            Field(
                max_length=128,
                json_schema_extra=rules(
                    rule("self.matches('^[A-Za-z_][A-Za-z0-9_]*$')", "must be the name of a Python function")
                ),
            ),
        ]
        | None
    ) = None
    """Name of the function. Absent: preprocess."""


class PreprocessingSpec(Model):
    """How columns are computed from each row: exactly one of the two. Other columns do not change."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                f"has(self.template) != has(self.{FUNCTION_IN_CEL})",
                "must have exactly one of template and function: remove the other one, or preprocessing itself",
            )
        )
    )

    template: RowTemplateSpec | None = None
    """Columns as Jinja text."""
    function: RowFunctionSpec | None = None
    """Columns by a Python function, which runs with all rights of the Prepare Pod; needs model.trustRemoteCode."""


class ValidationSpec(Model):
    """Checks that a row must pass to be trained on; onInvalidRow defines what happens to one that does not."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.regex) || has(self.syntax) || has(self.command)",
                "must have at least one of regex, syntax and command: write one of them, or remove validation",
            ),
            rule(
                "!has(self.timeoutSeconds) || has(self.command)",
                "timeoutSeconds is for command: remove it, or write the command",
            ),
        )
    )

    column: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Column whose text is checked. Absent: what the row is trained on, which is the text, the completion, or each turn
    of the assistant."""
    regex: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Python regular expression that must be found in the text; ^ and $ tie it to the beginning and the end."""
    syntax: Syntax | None = None
    """Language that the text must be written in without a syntax error. Nothing of it is run."""
    command: (
        Annotated[
            tuple[Argument, ...],
            Field(min_length=1, max_length=32, json_schema_extra={"x-kubernetes-list-type": "atomic"}),
        ]
        | None
    ) = None
    """Program of the image, with its arguments, that reads the text from its standard input and ends with exit code 0
    if it is good. It runs in an empty directory and with none of the Pod's variables but PATH."""
    timeout_seconds: Annotated[int, Field(ge=1, le=600)] | None = None
    """Timeout of the command for one text, in seconds. Absent: 10."""
