"""What a stage began with, held against what stands there when it ends."""

import functools
import hashlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.artifacts import Artifacts, read_json
from pipeline.errors import UserError
from pipeline.params.reader import PARAMS_FILE, parse_yaml, read_text
from pipeline.provenance.code import code_files, loaded_code, why_without_effect
from pipeline.provenance.imports import stage_sha256

_UNREADABLE = object()
_CLOCKS_DIFFER_BY_S = (
    0.02  # a process's beginning is known to a hundredth; no module is read so soon after it
)


class Loaded:
    """A stage's own section of params.yaml, and the code, as they were when it began.

    DVC hashes params and code once a stage has ended, so an edit in between would be recorded as what made
    the outputs.

    Args:
        stage: its name, as in dvc.yaml.
        section: of params.yaml, which it reads.
        params_file: the params.yaml.

    Raises:
        UserError: a module of the stage changed since the process began, and may have been read before that,
            or since stage `scan` wrote down the hash that dvc.lock will have.
    """

    def __init__(self, stage: str, section: str, params_file: Path = PARAMS_FILE) -> None:
        self._stage, self._section, self._params_file = stage, section, params_file
        self._values = self._read_section()
        # all of it: what is imported later is read later
        self._code = {name: _hash(path) for name, path in code_files().items()}
        for name, path in self._own_modules():
            # what changed in the future was written by a clock that has been set back since
            if _process_began() + _CLOCKS_DIFFER_BY_S < path.stat().st_ctime <= time.time():
                raise UserError(f"{name}: changed as stage '{stage}' began: run it again")
        seen = Artifacts().stage_code(stage)
        if seen.exists() and read_json(seen, made_by="scan").get("sha256") != stage_sha256(stage):
            raise UserError(f"{seen}: the code of stage '{stage}' has changed since 'scan': run 'dvc repro'")

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
        for name, path in self._own_modules():
            if _hash(path) != self._code[name]:
                yield f"{name}: changed"

    def _own_modules(self) -> Iterator[tuple[str, Path]]:
        """Those that are imported and can change what the stage writes."""
        own = f"stages/{self._stage}.py"
        for name, path in sorted(loaded_code().items()):
            is_own = name == own or not name.startswith("stages/")
            if is_own and why_without_effect(name, self._section) is None:
                yield name, path

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


@functools.cache
def _process_began() -> float:
    """When this process was started, in seconds since the epoch; never, where the system has no /proc."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return math.inf
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # since the system did, proc(5)
    return time.time() - (time.clock_gettime(time.CLOCK_BOOTTIME) - started)


def _hash(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
