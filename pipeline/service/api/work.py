"""What both APIs have done: files become pixels, pixels become embeddings or neighbours."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from pipeline.errors import DamagedError, UserError
from pipeline.images import UnreadableImageError
from pipeline.search.image_index import ImageIndex
from pipeline.service.api.bodies import Upload
from pipeline.service.batching import Ask, Batcher, GoneError
from pipeline.service.decoding import Decoders
from pipeline.service.generations import Generations
from pipeline.service.limits import Limits, Room
from pipeline.service.problems import Problem
from pipeline.service.telemetry import Telemetry

NO_ENCODER = (
    "this index folder has no encoder, and answers ids and embeddings alone: build it with --encoder to "
    "search with images"
)
DAMAGED = "the index folder is damaged: 'lookalike index verify' says which file, and the server's log too"
_log = logging.getLogger("lookalike.service")


@dataclass(frozen=True)
class Workshop:
    """All that answers a request."""

    generations: Generations
    decoders: Decoders
    batcher: Batcher
    limits: Limits
    room: Room
    telemetry: Telemetry

    async def pixels(self, uploads: Sequence[Upload], index: ImageIndex) -> NDArray[np.uint8]:
        """The images of a request, uint8 [Q, H, W, 3] of the size of the index's encoder.

        Raises:
            Problem: one of them is not an image that is read; the message names it. Or there is no encoder.
        """
        if not index.has_encoder:
            # the request is right: another generation of the folder may answer it
            raise Problem(409, "no encoder", NO_ENCODER)
        size = index.encoder.image_size
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
        """What the batcher makes of it; a client that has gone before its turn is not worked for.

        Raises:
            Problem: there is no such id, split or class, the index cannot do it or is damaged, or the client
                has gone.
        """
        job = self.batcher.put(index, queries, ask, request.scope["state"]["has_gone"])
        try:
            return await job.done
        except DamagedError as error:
            _log.error("%s", error)  # the path is for whoever runs the server
            raise Problem(500, "damaged index", DAMAGED) from None
        except UserError as error:
            raise Problem(404, "not found", str(error)) from None
        except GoneError:
            raise Problem(400, "gone", "the client went before its turn") from None
