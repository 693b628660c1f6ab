"""Columns that a user's Jinja templates or Python function make of each row, before anything else is read of it."""

import hashlib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

from sftjob_contract.config import Columns, DataFormat, DataSource, Preprocessing, RowFunction, RowTemplate
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure, UnfitColumnsError, data_invalid
from sftjob_trainer.readers import Row
from sftjob_trainer.shapes import OUTSIDE_OF_TEMPLATES
from sftjob_trainer.wording import columns_there, type_name

_TEMPLATE: Final = "dataset.preprocessing.template"
_FUNCTION: Final = "dataset.preprocessing.function"
_ROW: Final = "row"
"""Name of the whole row in a template, for columns whose names are no names in Jinja."""
_UNDEFINED: Final = re.compile(r"'(\w+)' is undefined")
_MODULE: Final = "sftjob_preprocessing"
"""Name of a user's file as a module; dataclasses, pickles and the like look their module up."""
_MUST_RETURN: Final = "must return a dict whose keys are names of columns"

_Maker = Callable[[Row], Mapping[str, Any]]
"""Makes columns of a row; raises a Failure for one that it can not use."""


def preprocessor(source: DataSource) -> Callable[[Row], Row]:
    """What gives a row the columns that the preprocessing of `source` makes, or raises a Failure for it.

    Raises:
        Failure: a function can not be had.
    """
    wanted = source.preprocessing
    if wanted is None:
        return lambda row: row
    make = _templates(wanted.template, source.columns) if wanted.template else _function(wanted.function)
    return lambda row: Row(row.place, {**row.values, **make(row)}, row.is_filled)


def given_format(source: DataSource) -> DataFormat | None:
    """The format of preprocessed rows, as far as the spec says: what a template makes, or what is asked for."""
    template = source.preprocessing.template if source.preprocessing else None
    if template is not None:
        return _made_format(template)
    return None if source.format is DataFormat.AUTO else source.format


def has_function(source: DataSource) -> bool:
    """Whether rows of `source` are given to a user's Python function."""
    return source.preprocessing is not None and source.preprocessing.function is not None


def preprocessing_problems(wanted: Preprocessing, asked_format: DataFormat) -> Iterator[str]:
    """What of `wanted` can not be done for rows of which `asked_format` is asked, one sentence each."""
    if (wanted.template is None) == (wanted.function is None):
        yield "dataset.preprocessing must have exactly one of template and function"
    if (template := wanted.template) is None:
        return
    parts = dict(_parts(template))
    if set(parts) not in ({"text"}, {"prompt", "completion"}):
        yield f"{_TEMPLATE} must have either text, or both prompt and completion"
        return
    made = _made_format(template)
    if asked_format not in (DataFormat.AUTO, made):
        yield f"{_TEMPLATE} makes rows of format {made}, not {asked_format}: remove dataset.format"
    from sftjob_trainer.row_template import compile_template

    for name, text in parts.items():
        try:
            compile_template(text)
        except ValueError as error:
            yield f"{_TEMPLATE}.{name}: {error}"


def code_fingerprint(sources: Iterable[DataSource]) -> str | None:
    """SHA-256 over the files of all functions of `sources`; None where there are none.

    Raises:
        Failure: one of them can not be read.
    """
    functions = [part.preprocessing.function for part in sources if part.preprocessing is not None]
    contents = [_read(function) for function in functions if function is not None]
    return hashlib.sha256("\0".join(contents).encode()).hexdigest() if contents else None


def _made_format(template: RowTemplate) -> DataFormat:
    return DataFormat.TEXT if template.text is not None else DataFormat.PROMPT_COMPLETION


def _parts(template: RowTemplate) -> Iterator[tuple[str, str]]:
    """Name and Jinja text of each part that is given."""
    for name, text in (("text", template.text), ("prompt", template.prompt), ("completion", template.completion)):
        if text is not None:
            yield name, text


def _templates(template: RowTemplate, columns: Columns) -> _Maker:
    from sftjob_trainer.row_template import compile_template

    parts = [(name, getattr(columns, name), compile_template(text)) for name, text in _parts(template)]
    outside = (columns.system, *OUTSIDE_OF_TEMPLATES)

    def make(row: Row) -> Mapping[str, Any]:
        unread = {name: None for name in outside if name in row.values}
        return unread | {column: _rendered(part, row, f"{_TEMPLATE}.{name}") for name, column, part in parts}

    return make


def _rendered(template: Any, row: Row, field: str) -> str:
    from jinja2 import UndefinedError

    from sftjob_trainer.row_template import NotPrintableError, template_values

    values = template_values(row.values)
    try:
        return str(template.render({_ROW: values, **values}))
    except MemoryError:
        raise
    except NotPrintableError as error:
        raise data_invalid(row.place, f"{field}: {error}") from error
    except UndefinedError as error:
        unknown = _UNDEFINED.fullmatch(error.message or "")
        if unknown is None:
            raise data_invalid(row.place, f"{field}: {error.message}") from error
        problem = f'{field}: no column "{unknown[1]}", {columns_there(row.values)}'
        raise UnfitColumnsError(row.place, problem, "write the name of one of them") from error
    except Exception as error:
        # A template is a program, which can fail in any way.
        raise data_invalid(row.place, f"{field}: {_told(error)}") from error


def _function(wanted: RowFunction | None) -> _Maker:
    if wanted is None:
        raise Failure(Reason.CONFIG_INVALID, "dataset.preprocessing must have exactly one of template and function")
    function, field = _loaded(wanted), f"{_FUNCTION} {wanted.name}"

    def make(row: Row) -> Mapping[str, Any]:
        try:
            made = function(dict(row.values))
        except MemoryError:
            raise
        except (Exception, SystemExit) as error:
            raise data_invalid(row.place, f"{field}: {_where(error, wanted.file)}{_told(error)}") from error
        if not isinstance(made, dict) or not all(isinstance(name, str) for name in made):
            raise data_invalid(row.place, f"{field} {_MUST_RETURN}, not {type_name(made)}")
        return made

    return make


def _loaded(wanted: RowFunction) -> Callable[[Mapping[str, Any]], Any]:
    """The function; what its file does when it is imported is done.

    Raises:
        Failure: there is no such file or function, or the file can not be imported.
    """
    code = _compiled_file(wanted)
    module = ModuleType(_MODULE)
    module.__file__ = wanted.file
    sys.modules[_MODULE] = module
    try:
        exec(code, module.__dict__)  # noqa: S102 -- model.trustRemoteCode allows it
    except MemoryError:
        raise
    except (Exception, SystemExit) as error:
        where = _where(error, wanted.file) or f"{Path(wanted.file).name}: "
        raise Failure(Reason.CONFIG_INVALID, f"{_FUNCTION}: {where}{_told(error)}") from error
    function: Callable[[Mapping[str, Any]], Any] | None = getattr(module, wanted.name, None)
    if not callable(function):
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{_FUNCTION}.name: {Path(wanted.file).name} has no function {wanted.name}; define it with "
            f"def {wanted.name}(row), or name another one",
        )
    return function


def _compiled_file(wanted: RowFunction) -> CodeType:
    name = Path(wanted.file).name
    try:
        return compile(_read(wanted), wanted.file, "exec", dont_inherit=True)
    except SyntaxError as error:
        at = "" if error.lineno is None else f" line {error.lineno}"
        raise Failure(Reason.CONFIG_INVALID, f"{_FUNCTION}: {name}{at}: {error.msg}") from error
    except ValueError as error:
        raise Failure(Reason.CONFIG_INVALID, f"{_FUNCTION}: {name}: {error}") from error


def _read(wanted: RowFunction) -> str:
    try:
        return Path(wanted.file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        problem = f"{wanted.file} can not be read: {error}"
        raise Failure(Reason.CONFIG_INVALID, f"{_FUNCTION}.configMapKeyRef: {problem}") from error


def _where(error: BaseException, file: str) -> str:
    """`NAME line N: ` of the last line of the user's file that led to `error`, empty where none did."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return f"{Path(file).name} line {lines[-1]}: " if lines else ""


def _told(error: BaseException) -> str:
    first_line = str(error).partition("\n")[0][:200]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
