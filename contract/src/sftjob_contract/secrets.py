"""Detect secrets in text: specs that contain them are rejected, and they are removed from shown text.

Every search takes time proportional to the length of any text: the character after a repetition cannot match the
repetition itself, and no two attempts read the same characters.
"""

import re
from typing import Final

LEAKY_VALUE: Final = (
    "(^|[^A-Za-z0-9])(hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}"
    "|AIza[0-9A-Za-z_-]{35}|xox[abprs]-[0-9A-Za-z-]{10,})|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/@ :]*:[^/@ ]*@"
)
"""Keys and tokens in the formats of well-known services, private keys, and URLs with a password."""
HIDDEN: Final = "***"
TEXT_LIMIT: Final = 8192
"""Maximum characters of an untrusted text that `shown` reads."""
_LEAKY_VALUE: Final = re.compile(LEAKY_VALUE)
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{8,}")
_DOTTED: Final = re.compile(r"[A-Za-z0-9_.-]{25,}")
"""Candidates for a web token: parts of base64url, separated by dots."""
_WEB_TOKEN_START: Final = re.compile(r"\beyJ")
_SHORTEST_PART: Final = 10
"""Characters of a web token's header, after `eyJ`, and of its payload."""
_SIGNED: Final = re.compile(r"(?i)([?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|sig|signature|[a-z_]*token|key)=)[^&\s'\"]+")


def without_secrets(text: str) -> str:
    """Remove what looks like a key, a token, a password in a URL, or a signature in one, from `text`."""
    text = _LEAKY_VALUE.sub(f" {HIDDEN}", text)
    text = _BEARER.sub(rf"\1\2{HIDDEN}", text)
    text = _DOTTED.sub(lambda run: _without_web_tokens(run[0]), text)
    return _SIGNED.sub(rf"\1{HIDDEN}", text)


def shown(text: str) -> str:
    """Return an untrusted `text` for display: cut to TEXT_LIMIT characters between two words, without secrets."""
    if len(text) > TEXT_LIMIT:
        words = text[:TEXT_LIMIT].rsplit(None, 1)  # half a key would not be recognized as one
        text = f"{words[0] if len(words) > 1 else ''} ..."
    return without_secrets(text)


def _without_web_tokens(run: str) -> str:
    """Keep dot-separated parts of base64url, except any three in a row that form a JSON web token."""
    parts = run.split(".")
    kept: list[str] = []
    i = 0
    while i < len(parts):
        start = _WEB_TOKEN_START.search(parts[i]) if i + 2 < len(parts) else None
        if start is not None and len(parts[i]) - start.end() >= _SHORTEST_PART <= len(parts[i + 1]):
            kept.append(parts[i][: start.start()] + HIDDEN)
            i += 3
        else:
            kept.append(parts[i])
            i += 1
    return ".".join(kept)
