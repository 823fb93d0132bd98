"""What a source holds at this moment, in one hash: so a file that came, went or changed is noticed."""

import hashlib
import os
import sqlite3
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from pipeline.artifacts import sha256_of
from pipeline.collection.sources.files import Found, source_path, walk
from pipeline.collection.sources.scenes import ARCHIVE
from pipeline.errors import MachineError
from pipeline.images import SUFFIXES
from pipeline.params.dataset import Dataset

# DVC could depend on the folder itself, but gives up on a broken link or a name that is not UTF-8, and a
# stage that depends on a folder only sometimes cannot be written in dvc.yaml.

_WAIT_S = 5.0  # for another program that has the file of known hashes; sqlite3's own
# what SQLite says of a file that is not the one that was written here
_NOT_OURS = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}


@dataclass(frozen=True)
class Fingerprint:
    """Of the files of a source; of one that has none of a person's own, of its name alone."""

    name: str
    num_files: int
    num_bytes: int
    sha256: str


def fingerprint(params: Dataset, known_hashes: Path) -> Fingerprint:
    """Hashes names and contents of all that a source reads, the same on every machine.

    Args:
        params: which source.
        known_hashes: a scratch file (SQLite) that remembers the hash of each file by its size, inode and time
            of change, so that the second time nothing is read that did not change. A damaged one is
            begun anew.

    Raises:
        UserError: there is no such folder or file.
        MachineError: another program holds `known_hashes`, or the disk has no room for it.
    """
    if params.name == "scenes":  # it comes with the package, and may be another one after an upgrade
        return Fingerprint(params.name, 1, ARCHIVE.stat().st_size, sha256_of(ARCHIVE))
    if params.path is None or params.name not in ("folder", "parquet"):
        return Fingerprint(params.name, 0, 0, hashlib.sha256(params.name.encode()).hexdigest())
    path = source_path(params)
    if path.is_dir():
        files = list(walk(path, SUFFIXES if params.name == "folder" else frozenset({".parquet"})))
    else:
        files = [Found(path.name, path, path.stat().st_size)]
    total = hashlib.sha256()
    for found, file_hash in zip(files, _hashes(files, known_hashes), strict=True):
        name = found.name.encode("utf-8", "surrogateescape")
        total.update(b"%d:%s%s" % (len(name), name, file_hash.encode()))
    return Fingerprint(params.name, len(files), sum(found.num_bytes for found in files), total.hexdigest())


def _hashes(files: list[Found], known_hashes: Path) -> list[str]:
    """The sha256 of each file, or in its place why it cannot be read."""
    known_hashes.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _hashes_beyond(files, known_hashes)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in _NOT_OURS:  # the rest of the number is a finer distinction
            raise MachineError(f"{known_hashes}: {error}: run the command again when it is free") from None
        print(f"{known_hashes}: damaged ({error}): every file is hashed anew", file=sys.stderr)
    known_hashes.unlink()
    return _hashes_beyond(files, known_hashes)


def _hashes_beyond(files: list[Found], known_hashes: Path) -> list[str]:
    """`_hashes`, reading the files whose state is not known."""
    with closing(sqlite3.connect(known_hashes, timeout=_WAIT_S)) as database:
        database.execute("CREATE TABLE IF NOT EXISTS hashes (path BLOB PRIMARY KEY, state TEXT, sha256 TEXT)")
        rows = database.execute("SELECT path, state, sha256 FROM hashes")
        known = {path: (state, sha256) for path, state, sha256 in rows}
        states = [_state(found) for found in files]
        keys = [os.fsencode(found.path.absolute()) for found in files]
        unknown = [
            row
            for row, (key, state) in enumerate(zip(keys, states, strict=True))
            if state is not None and known.get(key, ("", ""))[0] != state
        ]
        hashes = [known.get(key, ("", ""))[1] for key in keys]
        # hashing lets go of the interpreter's lock
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            found_hashes: Iterable[str] = threads.map(_hash, [files[row] for row in unknown])
            for row, file_hash in zip(
                unknown,
                tqdm(found_hashes, desc="scan", total=len(unknown), unit=" files", disable=None),
                strict=True,
            ):
                hashes[row] = file_hash
        for row, state in enumerate(states):
            if state is None:
                hashes[row] = files[row].problem or "gone"
        database.executemany(
            "INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)",
            [(keys[row], states[row], hashes[row]) for row in unknown],
        )
        database.commit()
    return hashes


def _state(found: Found) -> str | None:
    """What changes when the file does, or nothing for what is no readable file."""
    if found.problem is not None:
        return None
    try:
        status = found.path.stat()
    except OSError:
        return None
    return f"{status.st_size} {status.st_ino} {status.st_mtime_ns} {status.st_ctime_ns}"


def _hash(found: Found) -> str:
    try:
        return sha256_of(found.path)
    except OSError as error:
        return error.strerror or type(error).__name__
