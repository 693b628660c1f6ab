"""What secrets look like in text: refused where somebody writes them down, and left out where they would be shown."""

import re
from typing import Final

LEAKY_VALUE: Final = (
    "(^|[^A-Za-z0-9])(hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16}"
    "|AIza[0-9A-Za-z_-]{35}|xox[abprs]-[0-9A-Za-z-]{10,})|-----BEGIN [A-Z ]*PRIVATE KEY|://[^/@ ]*:[^/@ ]*@"
)
"""Values that well-known services issue as keys and tokens, private keys, and URLs with a password."""
HIDDEN: Final = "***"
_LEAKY_VALUE: Final = re.compile(LEAKY_VALUE)
_BEARER: Final = re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{8,}")
_WEB_TOKEN: Final = re.compile(r"\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*")
_SIGNED: Final = re.compile(r"(?i)([?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|sig|signature|[a-z_]*token|key)=)[^&\s'\"]+")


def without_secrets(text: str) -> str:
    """`text` without what looks like a key, a token, a password in a URL, or the signature of one."""
    text = _LEAKY_VALUE.sub(f" {HIDDEN}", text)
    text = _BEARER.sub(rf"\1\2{HIDDEN}", text)
    text = _WEB_TOKEN.sub(HIDDEN, text)
    return _SIGNED.sub(rf"\1{HIDDEN}", text)
