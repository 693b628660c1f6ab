"""What Prepare's log shows of the data."""

import logging
from collections.abc import Sequence
from typing import Any, Final

from sftjob_contract.run.config import RunConfig
from sftjob_trainer.sources.files import FileNames
from sftjob_trainer.tokens.dataset import DataFiles, TokenizedData
from sftjob_trainer.tokens.label_report import CHATS, marked
from sftjob_trainer.tokens.length_report import data_warnings
from sftjob_trainer.tokens.packing import count_tokens, count_trained_tokens
from sftjob_trainer.tokens.tokenize import Tokenized

logger = logging.getLogger(__name__)

_EXAMPLE_CHARACTERS: Final = 800
_NAMES_IN_A_LINE: Final = 20


def log_files(files: DataFiles) -> None:
    """Log the number and size of the files of each source, and the files of a folder that are not read."""
    step = "[2/4]"
    for part, found in (*files.train, *files.evaluation):
        megabytes = sum(file.path.stat().st_size for file in found.files) / 1e6
        logger.info("%s data %s: %s file(s), %.1f MB", step, part.source.source, len(found.files), megabytes)
        step = "     "
        _log_names(found.names)


def _log_names(names: FileNames) -> None:
    """Log which files of a folder are read, and the name of every file that is not."""
    if names.split is not None:
        logger.info("      the split %s of %s", names.split, ", ".join(names.splits))
    for first in range(0, len(names.unread), _NAMES_IN_A_LINE):
        logger.info("      not read: %s", ", ".join(names.unread[first : first + _NAMES_IN_A_LINE]))


def log_data(data: TokenizedData, config: RunConfig, tokenizer: Any) -> None:
    """Log counts of rows and tokens, the rows that are left out or cut, and an example of each source."""
    tokens = count_tokens(data.train)
    logger.info(
        "[3/4] %s rows of format %s: %s tokens to train on, %.1f %% of them with a label",
        rows_of(data.trained),
        ", ".join(dict.fromkeys(part.format for part in data.trained)),
        tokens,
        100 * count_trained_tokens(data.train) / tokens,
    )
    if len(data.trained) > 1:
        for part in data.trained:
            logger.info(
                "      of %s: %s rows, each used %g times", part.source.source, part.table.num_rows, part.source.weight
            )
    if data.evaluation is not None:
        logger.info("      held out: %s rows, %s tokens", data.evaluation.num_rows, count_tokens(data.evaluation))
    limit = config.training.max_length
    if truncated := sum(part.truncated for part in data.read):
        logger.info("      cut at training.maxLength %s: %s rows", limit, truncated)
    if untrained := sum(part.untrained for part in data.read):
        logger.info("      left out, nothing to train on within the first %s tokens: %s rows", limit, untrained)
    if rendered := sum(part.rendered for part in data.read):
        logger.info(
            "      rendered with the chat template, the prompt as a user's and the completion as an assistant's turn: "
            "%s rows; dataset.render: plain keeps them as they are",
            rendered,
        )
    for clause in data.row_filter.describe_removed():
        logger.info("      left out: %s", clause)
    for warning in data_warnings(data.read, limit):
        logger.warning("      %s", warning)
    for part in data.trained:
        _log_example(part, config, tokenizer)


def _log_example(part: Tokenized, config: RunConfig, tokenizer: Any) -> None:
    if part.example is not None:
        shown = marked(part.example, tokenizer).replace("\n", "\\n")
        shown = shown if len(shown) <= _EXAMPLE_CHARACTERS else shown[:_EXAMPLE_CHARACTERS] + " ..."
        logger.info("      example %s, trained between >> and <<: %s", part.example.location, shown)
    if config.model.chat_template is not None and part.format not in CHATS and not part.rendered:
        logger.info("      model.chatTemplate: not used for rows of format %s, only left with the model", part.format)


def rows_of(parts: Sequence[Tokenized]) -> int:
    """Count the rows of all `parts`."""
    return sum(part.table.num_rows for part in parts)
