"""The index folder as it is now: a new generation is opened beside the old one, then takes its place."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.search.files.settling import identity
from pipeline.search.image_index import ImageIndex

if TYPE_CHECKING:
    from pipeline.params.section import Device  # a type alone: a server reads no params.yaml

_LOOKED_AT_EVERY_S = 0.2

_log = logging.getLogger("lookalike.service")


class Generations:
    """One folder, watched.

    Attributes:
        current: what a request that comes now is answered from, to its end.
    """

    def __init__(
        self, path: Path, device: "Device", current: ImageIndex, on_swap: Callable[[ImageIndex], None]
    ) -> None:
        self.path, self.current = path, current
        self._device, self._on_swap = device, on_swap
        self._seen, self._said = identity(path), ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to watch."""
        self._on_swap(self.current)
        self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Watches no more; the current generation stays open."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOKED_AT_EVERY_S)
            try:
                found = identity(self.path)
                if found is None or found == self._seen:
                    continue
                opened = await loop.run_in_executor(None, self._open)
            except (OSError, MemoryError) as error:  # of the machine: it is tried again
                self._say(error)
                continue
            except Exception as error:  # of the folder, whatever somebody put there: not before it changes
                self._say(error)
                self._seen = found
                continue
            self._seen, self._said = found, ""
            if opened.generation != self.current.generation:
                self.current = opened
                self._on_swap(opened)
                _log.info("%s: generation %s, %d images", self.path, opened.generation, len(opened))

    def _say(self, error: Exception) -> None:
        """Why the folder is not taken, once for each reason."""
        if str(error) != self._said:
            _log.warning("%s: not taken, the generation before answers on: %s", self.path, error)
        self._said = str(error)

    def _open(self) -> ImageIndex:
        known = self.current.encoder if self.current.has_encoder else None
        return ImageIndex.open(self.path, self._device, encoder=known)
