"""Whether a text prompt and completion are rendered as conversation turns, the form that the model was tuned on."""

from collections.abc import Callable
from typing import Any, Final

from sftjob_contract.run.config import Render, RunConfig
from sftjob_trainer.rows.examples import Conversation, Example, PromptCompletion, PromptCompletionMessages
from sftjob_trainer.tokens.special_tokens import without_leading_bos

RENDER_ADVICE: Final = "or write dataset.render: plain to train prompt and completion as they are"
_NAMES: Final = ("system", "prompt", "completion")


def as_turns(config: RunConfig, tokenizer: Any) -> Callable[[Example], Example]:
    """The function that turns a text prompt and completion into a user and an assistant turn; other rows are unchanged.

    Nothing is changed without a chat template that shows which tokens are whose, or with dataset.render: plain. A blank
    prompt is not a question. A prompt in a form of its own, such as Alpaca's, or with a special token of the tokenizer
    is already rendered.
    """
    if config.dataset.render is Render.PLAIN or not (tokenizer.chat_template and tokenizer.is_fast):
        return lambda example: example
    special_tokens = [token for token in tokenizer.all_special_tokens if token]
    eos: str = tokenizer.eos_token

    def rendered(example: Example) -> Example:
        if not isinstance(example, PromptCompletion) or example.has_own_format or not example.question.strip():
            return example
        if any(token in example.prompt for token in special_tokens):
            return example
        answer = without_leading_bos(example.completion.rstrip().removesuffix(eos), tokenizer.bos_token, eos)
        turns = (("system", example.system), ("user", example.question), ("assistant", answer))
        turns_to_render = [
            (role, text, name) for (role, text), name in zip(turns, _NAMES, strict=True) if text or role != "system"
        ]
        messages = tuple({"role": role, "content": text} for role, text, _ in turns_to_render)
        conversation = Conversation(example.location, messages, names=tuple(name for *_, name in turns_to_render))
        return PromptCompletionMessages(example.location, conversation, len(messages) - 1)

    return rendered
