"""The next generation of an index folder: what changed is written, all else is linked, and they swap."""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.atomic import atomic_folder, recover_if_free
from pipeline.search.files.card import IndexCard
from pipeline.search.index_folder import IndexFolder
from pipeline.search.live import Live

_NOT_FOR_WANT_OF_LINKS = (errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class NextGeneration:
    """A generation under way, beside the one that stands there.

    Attributes:
        old: the folder as it is.
        card: what its index.json says.
        live: its images.
        new: an empty folder, into which what changed is written.
    """

    def __init__(self, old: IndexFolder, new: IndexFolder) -> None:
        self.old, self.new = old, new
        self.card = old.read_card()
        self.live = Live.open(old, self.card)
        self.is_written = False

    def write(self, card: IndexCard) -> None:
        """Writes index.json, and links whatever it names that was not written."""
        for path in self.new.named_by(card):
            if not path.exists():
                link_or_copy(self.old.path / path.name, path)
        self.new.write_card(card)
        self._give_access()
        self.is_written = True

    def _give_access(self) -> None:
        """Whoever could read or write the old folder can do so with the new one, and nobody else."""
        of_files = self.old.card.stat()
        for path in self.new.path.iterdir():
            if path.stat().st_nlink == 1:  # a link has the access of its other names
                _give(path, of_files)
        _give(self.new.path, self.old.path.stat())


@contextmanager
def next_generation(path: Path) -> Iterator[NextGeneration]:
    """Takes the place of the folder if the block succeeds and writes one; else the folder stays as it is.

    Readers see the old one or the new one, whole, and a process that is killed leaves one of the two.

    Raises:
        UserError: it is no index folder, or its files are damaged or not of one generation.
        MachineError: another process is writing it.
        OSError: the disk has no room for it.
    """
    old = IndexFolder(path)
    recover_if_free(path)
    old.read_card()  # before a lock is made beside what is no index folder
    try:
        with atomic_folder(path) as folder:
            folder.chmod(stat.S_IRWXU)  # until it is whole
            generation = NextGeneration(old, IndexFolder(folder))
            yield generation
            if not generation.is_written:
                raise _UnchangedError
    except _UnchangedError:
        pass
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        # as of a write to a full disk: all that is written without a name lies beside the folder
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from None


def _give(path: Path, like: os.stat_result) -> None:
    """The owner, where this process may set one, and the mode of another file or folder."""
    for owner, group in ((-1, like.st_gid), (like.st_uid, -1)):
        with contextlib.suppress(PermissionError):
            os.chown(path, owner, group)
    path.chmod(stat.S_IMODE(like.st_mode))


class _UnchangedError(Exception):
    """What leaves `atomic_folder` without a swap."""


def link_or_copy(source: Path, target: Path) -> None:
    """A file under another name too: linked, or copied where no link can be made.

    Its bytes may be those of DVC's cache, so nobody may write into either.

    Raises:
        OSError: there is no such file, or no room for a copy.
    """
    source = source.resolve()  # a link of DVC's would lead elsewhere from another folder
    try:
        os.link(source, target)
    except OSError as error:  # another disk, a file system without links, or somebody else's file
        if error.errno in _NOT_FOR_WANT_OF_LINKS:
            raise
        shutil.copyfile(source, target)
