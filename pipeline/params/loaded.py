"""What a stage began with, held against what stands there when it ends."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.params.reader import PARAMS_FILE, parse_yaml, read_text
from pipeline.provenance import code_files, loaded_code, why_without_effect

_UNREADABLE = object()


class Loaded:
    """A stage's own section of params.yaml, and the code, as they were when it began.

    DVC hashes params and code once a stage has ended, so an edit in between would be recorded as what made
    the outputs.

    Args:
        stage: its name, as in dvc.yaml.
        section: of params.yaml, which it reads.
        params_file: the params.yaml.
    """

    def __init__(self, stage: str, section: str, params_file: Path = PARAMS_FILE) -> None:
        self._stage, self._section, self._params_file = stage, section, params_file
        self._values = self._read_section()
        # all of it: what is imported later is read later
        self._code = {name: _hash(path) for name, path in code_files().items()}

    def check(self) -> None:
        """Holds that the stage's own keys and its own modules are still those that it began with.

        Raises:
            UserError: they are not; the message names the first key or module that differs.
        """
        for change in (*self._changed_keys(), *self._changed_modules()):
            raise UserError(
                f"{change} while stage '{self._stage}' ran, so it wrote nothing: put it back and run "
                "'dvc repro' (a finished training is kept), or run it with what stands there now"
            )

    def _changed_keys(self) -> Iterator[str]:
        for key, old, new in _differences(self._section, self._values, self._read_section()):
            if new is _UNREADABLE:
                yield f"{self._params_file}: {key} can no longer be read, it changed"
            else:
                yield f"{self._params_file}: {key} went from {old!r} to {new!r}"

    def _changed_modules(self) -> Iterator[str]:
        own = f"stages/{self._stage}.py"
        for name, path in sorted(loaded_code().items()):
            is_own = name == own or not name.startswith("stages/")
            if is_own and why_without_effect(name, self._section) is None and _hash(path) != self._code[name]:
                yield f"{name}: changed"

    def _read_section(self) -> Any:
        """The values as DVC tracks them."""
        try:
            return parse_yaml(read_text(self._params_file), self._params_file)[self._section]
        except (UserError, KeyError, TypeError):  # just being written, or without the section
            return _UNREADABLE


def _differences(key: str, old: Any, new: Any) -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with both; a key that one side has not got has the value None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in dict.fromkeys([*old, *new]):
            yield from _differences(f"{key}.{name}", old.get(name), new.get(name))
    elif old != new:
        yield key, old, new


def _hash(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
