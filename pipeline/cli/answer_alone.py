"""Standard output for the answer alone: what libraries print goes to standard error."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def answer_alone() -> Iterator[TextIO]:
    """Yields what to print the answer to; all else that is printed in the block, by C too, goes to stderr.

    Who reads JSON from a pipe would stumble over a word before it.
    """
    if sys.stdout is None:  # closed: its number may be another file's by now
        raise OSError(errno.EBADF, "standard output is closed")
    sys.stdout.flush()
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(os.dup(answer), "w", encoding="utf-8") as file:
            yield file
    finally:
        sys.stdout.flush()
        os.dup2(answer, 1)
        os.close(answer)
