"""Whether a prompt and a completion of text are trained as turns of a conversation, as the model was taught to talk."""

from collections.abc import Callable
from typing import Any, Final

from sftjob_contract.config import Render, RunConfig
from sftjob_trainer.shapes import Conversation, Example, PromptCompletion, PromptCompletionMessages
from sftjob_trainer.special_tokens import continued

WAY_OUT: Final = "or write dataset.render: plain to train prompt and completion as they are"
_NAMES: Final = ("system", "prompt", "completion")


def as_turns(config: RunConfig, tokenizer: Any) -> Callable[[Example], Example]:
    """What makes a user's and an assistant's turn of a prompt and a completion of text, and leaves all else as it is.

    Nothing does where the model has no chat template that shows which tokens are whose, or with dataset.render: plain.
    A prompt of white space is no question, one that has a form of its own, as Alpaca's, or a special token of the
    tokenizer is rendered already.
    """
    if config.dataset.render is Render.PLAIN or not (tokenizer.chat_template and tokenizer.is_fast):
        return lambda example: example
    special = [token for token in tokenizer.all_special_tokens if token]
    eos: str = tokenizer.eos_token

    def rendered(example: Example) -> Example:
        if not isinstance(example, PromptCompletion) or example.has_form or not example.question.strip():
            return example
        if any(token in example.prompt for token in special):
            return example
        answer = continued(example.completion.rstrip().removesuffix(eos), tokenizer.bos_token, eos)
        turns = (("system", example.system), ("user", example.question), ("assistant", answer))
        said = [
            (role, text, name) for (role, text), name in zip(turns, _NAMES, strict=True) if text or role != "system"
        ]
        messages = tuple({"role": role, "content": text} for role, text, _ in said)
        talk = Conversation(example.place, messages, names=tuple(name for *_, name in said))
        return PromptCompletionMessages(example.place, talk, len(messages) - 1)

    return rendered
