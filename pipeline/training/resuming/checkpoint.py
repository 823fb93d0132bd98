"""Checkpoints: a run that was stopped at any moment goes on where it was."""

import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pipeline.atomic import atomic_file
from pipeline.training.distributed.world import ALONE, World
from pipeline.training.resuming.kept_runs import mark_finished

_KEPT = 2  # the last, and the one before should the last be damaged
_HASH_DIGITS = 16


class Checkpoints:
    """The last two states of one run, each a file that carries the hash of its bytes in its name.

    Args:
        folder: of this run alone: its name is a hash of all that the run depends on. It lies outside the
            chain's outputs, which DVC may delete.
        world: the processes that train together: the first writes and reads, and the others are given what
            it has read, since they may be on other machines.
    """

    def __init__(self, folder: Path, world: World = ALONE) -> None:
        self.folder, self._world = folder, world

    def save(self, state: dict[str, Any], step: int) -> None:
        """Writes the state atomically and removes all but the last two.

        Args:
            state: of plain values and tensors.
            step: of the whole run; later states have larger ones.

        Raises:
            OSError: it could not be written; the earlier ones are whole.
        """
        if not self._world.is_first:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getvalue()
        with atomic_file(self.folder / f"{step:010d}-{_hash(content)}.pt") as partial:
            partial.write_bytes(content)
        for old in [*self._files()[:-_KEPT], *self.folder.glob(".*.partial")]:  # or of a run that was killed
            old.unlink()

    def load(self, into: Callable[[dict[str, Any]], None]) -> bool:
        """Gives the newest state that is whole to `into`; False where there is none.

        A damaged file is set aside under the name `*.damaged`, with a line on stderr, and the one before it
        is taken.
        """
        content = self._world.first(self._newest_whole() if self._world.is_first else None)
        if content is None:
            return False
        into(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
        return True

    def _newest_whole(self) -> bytes | None:
        for path in reversed(self._files()):
            content = path.read_bytes()
            if path.stem.endswith(_hash(content)):
                return content
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            tqdm.write(f"warning: checkpoint set aside, it is damaged: {aside}", file=sys.stderr)
        return None

    def newest(self) -> Path | None:
        """The file that the run would go on from."""
        return max(self._files(), default=None)

    def finish(self, outputs: str) -> None:
        """The run is done: the last state alone stays, until DVC has recorded the outputs of this hash."""
        for old in self._files()[:-1]:
            old.unlink()
        mark_finished(self.folder, outputs)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.pt"))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_HASH_DIGITS]
