"""A file over HTTP that arrives whole: it goes on where it broke off, and its md5 is checked at the end."""

import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from pipeline.errors import MachineError, UserError

MAX_ATTEMPTS = 4  # in a row that end at the same byte; with the pauses between them, seven seconds
CHUNK_BYTES = 1 << 20

_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416
_FIRST_SERVER_ERROR = 500


class _BrokenTransferError(Exception):
    """A request that may go better the next time; the message says what the address did."""


def download(url: str, path: Path, md5: str, *, timeout_s: float = 30.0, pause_s: float = 1.0) -> None:
    """Puts the file at `url` under `path`, whole or not at all; nothing to do if it is there already.

    What has come stands in `path` + ".partial", which outlives a failure, Ctrl-C and a kill: the next call
    asks for the rest of it only.

    Args:
        url: begins with http:// or https://; redirects are followed.
        path: of the file; its folder is made.
        md5: of the file, in hexadecimal.
        timeout_s: the longest silence of the server.
        pause_s: before the second attempt; each further pause is twice the one before.

    Raises:
        UserError: `url` is no such address.
        MachineError: there is no network, the server refuses, or what it sends has another md5.
        OSError: the file cannot be written.
    """
    _check_address(url)
    if path.exists() and md5_of(path) == md5:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    # whole already, if a run was killed between the last byte and the new name
    if not partial.exists() or md5_of(partial) != md5:
        _download_partial(url, partial, md5, timeout_s, pause_s)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def md5_of(path: Path) -> str:
    """The md5 of a file, in hexadecimal."""
    with path.open("rb") as file:
        # it finds damage; where md5 is barred, it is barred as a guard against forgery
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _check_address(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_address = False
    if not is_address:
        raise UserError(
            f"params.yaml: dataset.mirror: {url!r} is no address that begins with http:// or https:// "
            "(a local copy: name its folder in dataset.root)"
        )


def _download_partial(url: str, partial: Path, md5: str, timeout_s: float, pause_s: float) -> None:
    """Fills the partial file until its md5 is right; removes it if it comes out wrong."""
    is_pieced = _transfer(url, partial, timeout_s, pause_s)
    found = md5_of(partial)
    if found != md5 and is_pieced:
        # the first piece may be of another file that had this name
        print(f"{partial.stem}: what was kept of it does not fit, downloading it anew", file=sys.stderr)
        partial.unlink()
        _transfer(url, partial, timeout_s, pause_s)
        found = md5_of(partial)
    if found != md5:
        partial.unlink()
        raise MachineError(f"{url}: its md5 is {found}, expected {md5}: {_mend(partial.stem)}")


def _transfer(url: str, partial: Path, timeout_s: float, pause_s: float) -> bool:
    """Fills the partial file to its end; returns whether it was pieced together of several answers."""
    num_attempts = 0
    furthest = _num_bytes(partial)
    while True:
        try:
            return _receive(url, partial, timeout_s) > 0
        except _BrokenTransferError as error:
            # a long download over a bad line may break off many times, as long as it gets on
            num_attempts = 1 if _num_bytes(partial) > furthest else num_attempts + 1
            furthest = max(furthest, _num_bytes(partial))
            if num_attempts == MAX_ATTEMPTS:
                raise MachineError(f"{url} {error}: {_kept(partial)}{_mend(partial.stem)}") from None
            pause = pause_s * 2 ** (num_attempts - 1)
            print(f"{partial.stem}: {url} {error}, trying again in {pause:g} s", file=sys.stderr)
            time.sleep(pause)


def _receive(url: str, partial: Path, timeout_s: float) -> int:
    """Asks once for what is missing and writes what comes; returns the byte that the answer began at."""
    start = _num_bytes(partial)
    with _ask(url, start, timeout_s) as response:
        if response.status != _PARTIAL_CONTENT:
            start = 0  # a server that knows no ranges sends all of it
            total = response.length
        else:
            total = _total_of_range(response.headers.get("Content-Range", ""), start)
            if total is None:
                partial.unlink(missing_ok=True)
                raise _BrokenTransferError("sent another part than was asked for")
        with (
            partial.open("ab" if start else "wb") as file,
            tqdm(
                total=total, initial=start, desc=partial.stem, unit="B", unit_scale=True, disable=None
            ) as progress,
        ):
            for chunk in _chunks(response):
                file.write(chunk)
                progress.update(len(chunk))
    if total is not None and _num_bytes(partial) < total:
        raise _BrokenTransferError("sent less than was asked for")
    return start


def _ask(url: str, start: int, timeout_s: float) -> http.client.HTTPResponse:
    """The answer to a request for the bytes from `start` on, its body unread."""
    headers = {"User-Agent": "lookalike"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        request = urllib.request.Request(url, headers=headers)
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == _RANGE_NOT_SATISFIABLE and start:
            return _ask(url, 0, timeout_s)  # more was kept than the file has: it is of another one
        answered = f"answered {error.code} {_one_line(error.reason)}"
        if error.code >= _FIRST_SERVER_ERROR:
            raise _BrokenTransferError(answered) from None
        name = Path(urllib.parse.urlsplit(url).path).name
        raise MachineError(f"{url} {answered} when asked for the file: {_mend(name)}") from None
    except urllib.error.URLError as error:
        raise _BrokenTransferError(f"could not be reached ({_one_line(error.reason)})") from None
    except (http.client.InvalidURL, ValueError) as error:
        raise UserError(
            f"params.yaml: dataset.mirror: {url!r} is no address ({_one_line(error)}): correct it"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenTransferError(f"could not be reached ({_one_line(error)})") from None
    return response


def _total_of_range(content_range: str, start: int) -> int | None:
    """The bytes of the whole file as a 206 answer gives them; None if it does not begin at `start`.

    >>> _total_of_range("bytes 500-999/1000", start=500)
    1000
    """
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", content_range.strip())
    if match is None or int(match[1]) != start:
        return None
    return int(match[2]) + 1 if match[3] == "*" else int(match[3])


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body as it comes; a body that ends early is a broken transfer."""
    missing = response.length  # None where the server does not say
    while missing is None or missing > 0:
        try:
            # read would wait for a whole chunk, and lose what came of it if the line broke
            chunk = response.read1(CHUNK_BYTES if missing is None else min(CHUNK_BYTES, missing))
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenTransferError(f"broke off ({_one_line(error)})") from None
        if not chunk:
            if missing:
                raise _BrokenTransferError(f"broke off ({missing:,} bytes before the end)")
            return
        if missing is not None:
            missing -= len(chunk)
        yield chunk


def _num_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _kept(partial: Path) -> str:
    kept = _num_bytes(partial)
    return f"the same command goes on from byte {kept:,}, or " if kept else ""


def _mend(name: str) -> str:
    return (
        f"set dataset.root in params.yaml to a folder that holds {name}, or dataset.mirror to another address"
    )


def _one_line(reason: object) -> str:
    text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
    return " ".join(text.split())
