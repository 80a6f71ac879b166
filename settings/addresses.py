"""Addresses as people may see them: without their passwords."""

import re
from urllib.parse import unquote

_HIDDEN = "***"
# From the first colon to the *last* @, over slashes and spaces too: somebody who forgot to escape a
# password must not see the rest of it in a message.  Hiding too much does no harm.
_PASSWORDS = (
    re.compile(r"(?P<before>://[^:/@\s]*:)(?P<password>.*)(?=@)", re.DOTALL),
    re.compile(r"(?P<before>[?&](?:ssl)?password=)(?P<password>[^&\s'\"]*)", re.IGNORECASE),
)


def shown(text: str) -> str:
    """A URI, or a text with a URI in it, without the password."""
    for pattern in _PASSWORDS:
        text = pattern.sub(rf"\g<before>{_HIDDEN}", text)
    return text


def without_password(text: str, uri: str) -> str:
    """``text``, such as a library's message about ``uri``, without the password of that URI."""
    found = [match["password"] for pattern in _PASSWORDS for match in pattern.finditer(uri)]
    for password in sorted({form for raw in found for form in (raw, unquote(raw)) if form}, key=len, reverse=True):
        text = text.replace(password, _HIDDEN)
    return text
