"""Row preprocessing: columns produced by a user's Jinja templates or Python function, before a row is read."""

import hashlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Columns, DataFormat, DataSource, Preprocessing, RowFunction, RowTemplate
from sftjob_trainer.process.errors import ColumnMismatchError, StageError, data_invalid
from sftjob_trainer.process.wording import describe_columns, type_name
from sftjob_trainer.rows.examples import OUTSIDE_OF_TEMPLATES
from sftjob_trainer.rows.readers import Row

_TEMPLATE: Final = "dataset.preprocessing.template"
_FUNCTION: Final = "dataset.preprocessing.function"
_ROW: Final = "row"
"""Name of the whole row in a template, for columns whose names are not valid in Jinja."""
_UNDEFINED: Final = re.compile(r"'(\w+)' is undefined")
_MODULE: Final = "sftjob_preprocessing"
"""Module name of a user's file; dataclasses, pickles and others look up their module."""
_MUST_RETURN: Final = "must return a dict whose keys are names of columns"

_ColumnsFunction = Callable[[Row], Mapping[str, Any]]
"""Produces columns from a row; raises a StageError for a row that it cannot use."""


def preprocessor(source: DataSource) -> Callable[[Row], Row]:
    """The function that adds the columns of the preprocessing of `source` to a row, or raises a StageError for it.

    Raises:
        StageError: a function is not available.
    """
    wanted = source.preprocessing
    if wanted is None:
        return lambda row: row
    make_columns = (
        _template_columns(wanted.template, source.columns) if wanted.template else _function_columns(wanted.function)
    )
    return lambda row: Row(row.location, {**row.values, **make_columns(row)}, row.is_filled)


def configured_format(source: DataSource) -> DataFormat | None:
    """The format of preprocessed rows, if the spec determines it: by a template, or by the configured format."""
    template = source.preprocessing.template if source.preprocessing else None
    if template is not None:
        return _template_format(template)
    return None if source.format is DataFormat.AUTO else source.format


def has_function(source: DataSource) -> bool:
    """Whether rows of `source` are passed to a user's Python function."""
    return source.preprocessing is not None and source.preprocessing.function is not None


def preprocessing_problems(wanted: Preprocessing, configured: DataFormat) -> Iterator[str]:
    """Conflicts between `wanted` and the configured format `configured`, one sentence each."""
    if (wanted.template is None) == (wanted.function is None):
        yield "dataset.preprocessing must have exactly one of template and function"
    if (template := wanted.template) is None:
        return
    parts = dict(_parts(template))
    if set(parts) not in ({"text"}, {"prompt", "completion"}):
        yield f"{_TEMPLATE} must have either text, or both prompt and completion"
        return
    columns_made = _template_format(template)
    if configured not in (DataFormat.AUTO, columns_made):
        yield f"{_TEMPLATE} makes rows of format {columns_made}, not {configured}: remove dataset.format"
    from sftjob_trainer.rows.row_template import compile_template

    for name, text in parts.items():
        try:
            compile_template(text)
        except ValueError as error:
            yield f"{_TEMPLATE}.{name}: {error}"


def code_fingerprint(sources: Iterable[DataSource]) -> str | None:
    """SHA-256 over the files of all functions of `sources`; None if there are none.

    Raises:
        StageError: one of them cannot be read.
    """
    functions = [part.preprocessing.function for part in sources if part.preprocessing is not None]
    contents = [_read(function) for function in functions if function is not None]
    return hashlib.sha256("\0".join(contents).encode()).hexdigest() if contents else None


def _template_format(template: RowTemplate) -> DataFormat:
    return DataFormat.TEXT if template.text is not None else DataFormat.PROMPT_COMPLETION


def _parts(template: RowTemplate) -> Iterator[tuple[str, str]]:
    """Name and Jinja text of each part that is set."""
    for name, text in (("text", template.text), ("prompt", template.prompt), ("completion", template.completion)):
        if text is not None:
            yield name, text


def _template_columns(template: RowTemplate, columns: Columns) -> _ColumnsFunction:
    from sftjob_trainer.rows.row_template import compile_template

    parts = [(name, getattr(columns, name), compile_template(text)) for name, text in _parts(template)]
    outside = (columns.system, *OUTSIDE_OF_TEMPLATES)

    def make_columns(row: Row) -> Mapping[str, Any]:
        unread = {name: None for name in outside if name in row.values}
        return unread | {column: _rendered(part, row, f"{_TEMPLATE}.{name}") for name, column, part in parts}

    return make_columns


def _rendered(template: Any, row: Row, field: str) -> str:
    from jinja2 import UndefinedError

    from sftjob_trainer.rows.row_template import NotPrintableError, template_values

    values = template_values(row.values)
    try:
        return str(template.render({_ROW: values, **values}))
    except MemoryError:
        raise
    except NotPrintableError as error:
        raise data_invalid(row.location, f"{field}: {error}") from error
    except UndefinedError as error:
        unknown = _UNDEFINED.fullmatch(error.message or "")
        if unknown is None:
            raise data_invalid(row.location, f"{field}: {error.message}") from error
        problem = f'{field}: no column "{unknown[1]}", {describe_columns(row.values)}'
        raise ColumnMismatchError(row.location, problem, "write the name of one of them") from error
    except Exception as error:
        # A template is a program and can fail in any way.
        raise data_invalid(row.location, f"{field}: {_describe_error(error)}") from error


def _function_columns(wanted: RowFunction | None) -> _ColumnsFunction:
    if wanted is None:
        raise StageError(Reason.CONFIG_INVALID, "dataset.preprocessing must have exactly one of template and function")
    function, field = _load_function(wanted), f"{_FUNCTION} {wanted.name}"

    def make_columns(row: Row) -> Mapping[str, Any]:
        try:
            columns_made = function(dict(row.values))
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            raise data_invalid(
                row.location, f"{field}: {_error_location(error, wanted.file)}{_describe_error(error)}"
            ) from error
        if not isinstance(columns_made, dict) or not all(isinstance(name, str) for name in columns_made):
            raise data_invalid(row.location, f"{field} {_MUST_RETURN}, not {type_name(columns_made)}")
        return columns_made

    return make_columns


def _load_function(wanted: RowFunction) -> Callable[[Mapping[str, Any]], Any]:
    """Import the user's file and return its function.

    Raises:
        StageError: there is no such file or function, or the file cannot be imported.
    """
    code = _compile_file(wanted)
    module = ModuleType(_MODULE)
    module.__file__ = wanted.file
    sys.modules[_MODULE] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 -- model.trustRemoteCode allows it
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        location = _error_location(error, wanted.file) or f"{Path(wanted.file).name}: "
        raise StageError(Reason.CONFIG_INVALID, f"{_FUNCTION}: {location}{_describe_error(error)}") from error
    function: Callable[[Mapping[str, Any]], Any] | None = getattr(module, wanted.name, None)
    if not callable(function):
        raise StageError(
            Reason.CONFIG_INVALID,
            f"{_FUNCTION}.name: {Path(wanted.file).name} has no function {wanted.name}; define it with "
            f"def {wanted.name}(row), or name another one",
        )
    return function


def _compile_file(wanted: RowFunction) -> CodeType:
    name = Path(wanted.file).name
    try:
        return compile(_read(wanted), wanted.file, "exec", dont_inherit=True)
    except SyntaxError as error:
        line = "" if error.lineno is None else f" line {error.lineno}"
        raise StageError(Reason.CONFIG_INVALID, f"{_FUNCTION}: {name}{line}: {error.msg}") from error
    except ValueError as error:
        raise StageError(Reason.CONFIG_INVALID, f"{_FUNCTION}: {name}: {error}") from error


def _read(wanted: RowFunction) -> str:
    try:
        return Path(wanted.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{wanted.file} cannot be read: {error}"
        raise StageError(Reason.CONFIG_INVALID, f"{_FUNCTION}.configMapKeyRef: {problem}") from error


def _error_location(error: BaseException, file: str) -> str:
    """`NAME line N: ` for the last line of the user's file that led to `error`; empty if none did."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{Path(file).name} line {lines[-1]}: " if lines else ""


def _describe_error(error: BaseException) -> str:
    first_line = str(error).partition("\n")[0][:200]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
