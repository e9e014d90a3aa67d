"""What no log, message, tag or report may hold: passwords and tokens in URLs. And files that not everybody may write.

URLs are masked where they become text for others: messages (`terminal`, the errors of `reach` and `schedule`), the
command as typed (log, lock, report, MLflow), and what a failed trial or a lost worker says.
"""

import os
import re
import shlex
from collections.abc import Sequence

MASK = "***"
_USER = re.compile(r"(?<=://)(?:[^\s/?#@:]*:\S*|[^\s/?#]*)@")
"""User and password, up to the last @ that can end them: an unescaped / or @ may be part of a password."""
_FIELD = re.compile(
    r"([?&;][^\s=&;?]*(?:passw(?:or)?d|pwd|token|secret|signature|credential|access[-_]?key|api[-_]?key|auth(?!or))[^\s=&;]*=)[^\s&;#'\"]+",
    re.IGNORECASE,
)
"""A field of a URL's query that is named like a secret."""


def redact(text: str) -> str:
    """`text` without the users, passwords and tokens of its URLs. Rather too much is masked than too little."""
    return _FIELD.sub(rf"\g<1>{MASK}", _USER.sub(f"{MASK}@", text))


def typed(words: Sequence[str]) -> str:
    """A command as typed, its URLs redacted; what stands in a word between :// and @ may hold blanks and quotes."""
    return shlex.join(redact(re.sub(r"(?<=://).*@", f"{MASK}@", word, flags=re.DOTALL)) for word in words)


def keep_others_out() -> None:
    """From now on nothing that this process or one that it starts makes can be written by everybody.

    Group and owner stay as the user's umask has them: a home may be a group's.
    """
    before = os.umask(0o022)
    os.umask(before | 0o002)
