"""Ray, started for one command on this machine alone, or joined where somebody has started it."""

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import MachineError, UserError

if TYPE_CHECKING:
    from pipeline.params.section import Device

_OBJECT_STORE_BYTES = 80 * 2**20  # little more than Ray's least: no pixel and no embedding goes through it
_TRIES_OF_A_TASK = 3  # after a worker was killed; one that always is, is not tried for ever
_LOGS = "lookalike-ray-"  # and the process whose they are
_TASKS_AT_MOST = 4096  # in one dataset; each is as many items as that takes
# Read when Ray is imported: it would count its users, and say in the terminal what its processes log.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
# Ray calls 127.0.0.1 by the address that other machines know it by, unless it is told that there are none
_LOOPBACK_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token"}

Item = TypeVar("Item", bound=Mapping[str, Any])


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Ray, as long as the context lasts.

    Without an address it is of this machine and this command: it listens at 127.0.0.1 alone, asks for a token
    that nobody else has, and writes its logs to a temporary folder that goes with it. It shows no dashboard
    and sends no usage statistics. A process that has started or joined one already goes on with that.

    Args:
        address: HOST:PORT of a cluster, or `auto` for one that runs on this machine; None: RAY_ADDRESS where
            it is set, else none.

    Raises:
        MachineError: Ray is not installed, or there is no such cluster.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    os.environ.update(_QUIET)
    if address is None:
        os.environ.update(_LOOPBACK_ALONE)
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MachineError(
            f"{error.name} is not installed, which engine ray needs: pip install 'lookalike[scale]'"
        ) from None
    if ray.is_initialized():
        yield
        return
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logs = _folder_of_logs() if address is None else None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if logs is not None:
        options |= {  # a token of our own: it would keep one under the home folder
            "include_dashboard": False,
            "num_cpus": len(os.sched_getaffinity(0)),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": logs,
        }
    try:
        with _stderr_to(Path(logs or os.devnull)):
            _start(address, options)
        yield
    finally:
        ray.shutdown()
        if logs is not None:
            shutil.rmtree(logs, ignore_errors=True)


def on_actors(
    worker: Callable[..., Callable[[Item], int]],
    arguments: Sequence[Any],
    items: Sequence[Item],
    device: "Device",
) -> Iterator[int]:
    """Every item to a pool of actors, as many as the cluster has GPUs, or cores where it has none.

    Args:
        worker: made of `arguments` and `cuda=`, and then called with one item at a time. What it gives is
            yielded, in no order. An item comes again when its worker was killed.
        arguments: that can be pickled.
        items: rows of plain values.
        device: `auto` is the GPUs where the cluster has some.

    Raises:
        UserError, MachineError: as a worker raised them.
        MachineError: there is no GPU and `cuda` was asked for.
    """
    import ray
    import ray.data

    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cuda = device == "cuda" or (device == "auto" and resources.get("GPU", 0) >= 1)
    num_actors = int(resources.get("GPU" if cuda else "CPU", 0))
    if num_actors < 1:
        raise MachineError(f"the Ray cluster has no {'GPU, and device is cuda' if cuda else 'core to spare'}")
    ray.data.DataContext.get_current().enable_progress_bars = False
    blocks = min(len(items), _TASKS_AT_MOST)
    rows = ray.data.from_items(list(items), override_num_blocks=blocks).map_batches(
        _Actor,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(num_actors, blocks)),
        fn_constructor_args=(worker, tuple(arguments), cuda),
        num_cpus=0 if cuda else 1,
        num_gpus=1 if cuda else 0,
    )
    try:
        for row in rows.iter_rows():
            if row["fault"]:
                raise (UserError if row["is_mistake"] else MachineError)(row["fault"])
            yield int(row["given"])
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise MachineError(f"Ray gave up: {lines[-1] if lines else type(error).__name__}") from None


class _Actor:
    """A worker as Ray Data wants it; its faults travel as rows, since Ray hands on no exception as it was."""

    def __init__(
        self, worker: Callable[..., Callable[[Any], int]], arguments: Sequence[Any], cuda: bool
    ) -> None:
        self._make = partial(worker, *arguments, cuda=cuda)
        self._worker: Callable[[Any], int] | None = None

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        given, fault, is_mistake = 0, "", False
        try:
            if self._worker is None:
                self._worker = self._make()
            given = self._worker({name: values[0].item() for name, values in batch.items()})
        except (UserError, MachineError) as error:
            fault, is_mistake = str(error), isinstance(error, UserError)
        except OSError as error:
            fault = f"{error.filename}: {error.strerror or error}"
        return {"given": np.array([given]), "fault": np.array([fault]), "is_mistake": np.array([is_mistake])}


def begin_try(of: Path, what: str) -> None:
    """Notes that a worker begins with a file, which Ray gives to another, without end, when it was killed.

    Args:
        of: the file; the note lies beside it, until `end_tries`.
        what: a person knows it by.

    Raises:
        MachineError: so many have begun already.
    """
    of.parent.mkdir(parents=True, exist_ok=True)
    with _tries(of).open("ab") as file:
        file.write(b".")
        if file.tell() > _TRIES_OF_A_TASK:
            raise MachineError(
                f"{what}: {_TRIES_OF_A_TASK} workers were killed at it, most likely for want of memory: free "
                "some, or use smaller batches"
            )


def end_tries(of: Path) -> None:
    """The file is there, or is begun anew."""
    _tries(of).unlink(missing_ok=True)


def _tries(of: Path) -> Path:
    return of.with_name(f".{of.name}.tries")


def _folder_of_logs() -> str:
    """A new one; those of processes that were killed are removed."""
    for old in Path("/tmp").glob(f"{_LOGS}*"):
        process = old.name.removeprefix(_LOGS).partition("-")[0]
        try:
            os.kill(int(process), 0)
        except (ProcessLookupError, ValueError):
            shutil.rmtree(old, ignore_errors=True)
        except PermissionError:
            pass  # another user's, and under way
    # in /tmp wherever TMPDIR is: the whole path of a socket may have 107 bytes
    return tempfile.mkdtemp(prefix=f"{_LOGS}{os.getpid()}-", dir="/tmp")


def _start(address: str | None, options: dict[str, Any]) -> None:
    import ray

    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        what = "Ray could not be started" if address is None else f"no Ray cluster can be joined at {address}"
        raise MachineError(f"{what}: {str(error).strip().splitlines()[0]}") from None


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Ray's own processes speak past Python's logging while it starts."""
    before = os.dup(2)
    with (path / "stderr.log" if path.is_dir() else path).open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
