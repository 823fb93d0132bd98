"""Files of a git revision or a DVC experiment, out of DVC's cache, with nothing checked out."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.collection.sources.collection import printable
from pipeline.errors import MachineError, UserError, needs_training_stack

if TYPE_CHECKING:
    from dvc.fs.dvc import DVCFileSystem

_NEVER_IN_NAMES = (":", "^{")  # by them git finds a file or a tree, which is no run


def read_revision(name: str, paths: Sequence[str]) -> dict[str, bytes]:
    """The contents of files of the project in the current folder, as they were at a revision.

    Args:
        name: anything that git takes for a commit, or the name of a DVC experiment.
        paths: from the project's folder on.

    Raises:
        UserError: there is no such revision, or it has no such file, or neither cache nor remote has it.
        MachineError: DVC is not installed.

    Source: `dvc metrics` and `dvc plots` read revisions by the same two calls, so that a project in a folder
    of a repository and a cache that config.local names are found as they find them.
    """
    shown = printable(name)
    neither = f"'{shown}' is neither a folder nor a git revision or DVC experiment"
    if not name or any(part in name for part in _NEVER_IN_NAMES):
        raise UserError(f"{neither}: 'lookalike compare --help' has examples")
    try:
        from dvc.exceptions import DvcException, NotDvcRepoError
        from dvc.repo import Repo
        from dvc.scm import SCMError, resolve_rev
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "dvc":
            raise
        raise MachineError(
            f"'{shown}' is no folder, and to read it as a git revision: {needs_training_stack('dvc')}"
        ) from None
    try:
        with Repo() as repo:
            commit = resolve_rev(repo.scm, name)
            with repo.switch(commit):
                return {path: _read(repo.dvcfs, path, shown) for path in paths}
    except NotDvcRepoError:
        raise UserError(f"{neither}: this folder is in no DVC project, or was in none then") from None
    except SCMError as error:
        raise UserError(f"{neither} of this repository ({printable(str(error))})") from None
    except DvcException as error:
        raise UserError(f"{shown}: DVC cannot read that revision: {printable(str(error))}") from None


def _read(files: "DVCFileSystem", path: str, shown: str) -> bytes:
    from dvc_data.index import DataIndexDirError

    where = f"/{path}"  # from the project's folder, wherever in it the person stands
    try:
        try:
            with files.open(where, "rb") as file:
                return bytes(file.read())
        except FileNotFoundError:
            if not files.exists(where):
                raise UserError(
                    f"{shown}: has no {path} in its dvc.lock: check that revision out, run 'dvc repro' and "
                    "commit dvc.lock"
                ) from None
    except DataIndexDirError:  # not even the list of what is in the folder
        pass
    raise UserError(
        f"{shown}: {path} is not in DVC's cache: 'dvc fetch --all-commits' brings it where it was pushed (an "
        "experiment: 'dvc exp pull'); else check that revision out and run 'dvc repro'"
    )
