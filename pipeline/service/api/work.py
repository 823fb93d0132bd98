"""What both APIs have done: files become pixels, pixels become embeddings or neighbours."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from pipeline.errors import UserError
from pipeline.images import UnreadableImageError
from pipeline.search.image_index import ImageIndex
from pipeline.service.api.bodies import Upload
from pipeline.service.batching import Ask, Batcher
from pipeline.service.decoding import Decoders
from pipeline.service.generations import Generations
from pipeline.service.limits import Limits, Room
from pipeline.service.problems import Problem
from pipeline.service.telemetry import Telemetry


@dataclass(frozen=True)
class Workshop:
    """All that answers a request."""

    generations: Generations
    decoders: Decoders
    batcher: Batcher
    limits: Limits
    room: Room
    telemetry: Telemetry

    async def pixels(self, uploads: Sequence[Upload], size: int) -> NDArray[np.uint8]:
        """The images of a request, uint8 [Q, size, size, 3].

        Raises:
            Problem: one of them is not an image that is read; the message names it.
        """
        decoded = await asyncio.gather(
            *(self.decoders.decode(upload.content, size) for upload in uploads), return_exceptions=True
        )
        for upload, outcome in zip(uploads, decoded, strict=True):
            if isinstance(outcome, UnreadableImageError):
                raise Problem(415, "unreadable image", f"{upload.name}: {outcome}")
            if isinstance(outcome, BaseException):
                raise outcome
        return np.stack([pixels for pixels in decoded if not isinstance(pixels, BaseException)])

    async def done(self, request: Request, index: ImageIndex, queries: NDArray[Any], ask: Ask | None) -> Any:
        """What the batcher makes of it; a client that goes meanwhile is not worked for.

        Raises:
            Problem: there is no such id, split or class, or the index cannot do it.
        """
        job = self.batcher.put(index, queries, ask)
        gone = asyncio.ensure_future(_until_gone(request))
        gone.add_done_callback(lambda _: job.done.cancel())
        try:
            return await job.done
        except UserError as error:
            raise Problem(404, "not found", str(error)) from None
        except asyncio.CancelledError:
            if gone.done() and not gone.cancelled():
                raise Problem(400, "gone", "the client went before its turn") from None
            raise
        finally:
            job.done.cancel()
            gone.cancel()


async def _until_gone(request: Request) -> None:
    """Returns when the client has closed the connection; the body has been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
