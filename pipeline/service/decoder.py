"""The process that turns the bytes of strangers into pixels: it may die, and the server lives on.

It reads jobs from its standard input and writes their outcomes to its standard output, in frames:

    in   size uint32, most pixels uint64, count uint32, then count lengths uint64, then the files' bytes
    out  of each image twice: that it is begun, so that it is known whose fault a death is; then whether it
         could be read uint8, length uint64, then pixels uint8 [size, size, 3] or the reason
"""

import io
import resource
import struct
import sys
from typing import BinaryIO

from pipeline.images import MAX_MEMORY_BYTES, UnreadableImageError, decode

JOB = struct.Struct("<IQI")
LENGTH = struct.Struct("<Q")
OUTCOME = struct.Struct("<BQ")
NOT_READ, READ, BEGUN = 0, 1, 2

# beside what decoding takes: the interpreter with NumPy and Pillow maps 1 GB before the first image
_OTHER_MEMORY_BYTES = 2_500_000_000


def main() -> None:
    """Decodes until its standard input ends: with the server, however that does."""
    limit = MAX_MEMORY_BYTES + _OTHER_MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # what a decoder's library prints must not get between the frames
    outcomes, sys.stdout = sys.stdout.buffer, io.TextIOWrapper(io.BytesIO())
    jobs = sys.stdin.buffer
    while header := jobs.read(JOB.size):
        size, max_pixels, count = JOB.unpack(header)
        lengths = [LENGTH.unpack(_read(jobs, LENGTH.size))[0] for _ in range(count)]
        for length in lengths:
            content = _read(jobs, length)
            outcomes.write(OUTCOME.pack(BEGUN, 0))
            outcomes.flush()
            is_read, payload = _decoded(content, size, max_pixels)
            outcomes.write(OUTCOME.pack(is_read, len(payload)))
            outcomes.write(payload)
        outcomes.flush()


def _decoded(content: bytes, size: int, max_pixels: int) -> tuple[int, bytes]:
    try:
        return READ, decode(content, size, max_pixels).pixels.tobytes()
    except UnreadableImageError as error:
        return NOT_READ, str(error).encode()
    except MemoryError:
        return NOT_READ, b"takes more memory to decode than an image may"


def _read(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        sys.exit(0)  # the server has gone in the middle of a job
    return content


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(0)
