"""Ray, started for one command on this machine alone, or joined where somebody has started it."""

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import MachineError, UserError

if TYPE_CHECKING:
    from pipeline.params.section import Device

_OBJECT_STORE_BYTES = 80 * 2**20  # little more than Ray's least: no pixel and no embedding goes through it
_TRIES_OF_A_TASK = 3  # after a worker was killed; one that always is, is not tried for ever
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
    and sends no usage statistics.

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
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # short: a socket's whole path may have 107 bytes
    logs = tempfile.mkdtemp(prefix="lookalike-ray-", dir="/tmp") if address is None else None
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
        with _stderr_to(Path(logs or tempfile.gettempdir()) / "lookalike-ray.log"):
            ray.init(address=address or "local", **options)
        yield
    except ConnectionError as error:
        raise MachineError(f"no Ray cluster answers at {address}: {str(error).splitlines()[0]}") from None
    finally:
        ray.shutdown()
        if logs is not None:
            shutil.rmtree(logs, ignore_errors=True)


def on_actors(
    worker: type, arguments: Sequence[Any], items: Sequence[Item], device: "Device"
) -> Iterator[dict[str, Any]]:
    """Every item to a pool of actors, as many as the cluster has GPUs, or cores where it has none.

    Args:
        worker: called with `arguments` and `cuda=`, and then with one item at a time, as Ray Data's batches
            of one row. What it gives is yielded, in no order. An item comes again when its worker was killed.
        arguments: that can be pickled.
        items: rows of plain values.
        device: `auto` is the GPUs where the cluster has some.

    Raises:
        UserError, MachineError: as the worker raised them.
        MachineError: a worker was killed again and again, or there is no GPU and `cuda` was asked for.
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
        worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(num_actors, blocks)),
        fn_constructor_args=tuple(arguments),
        fn_constructor_kwargs={"cuda": cuda},
        num_cpus=0 if cuda else 1,
        num_gpus=1 if cuda else 0,
    )
    try:
        for row in rows.iter_rows():
            yield dict(row)
    except ray.exceptions.RayError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError | MachineError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from None
        raise MachineError(f"Ray's workers gave up: {_last_line(error)}") from None


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


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Ray's own processes speak past Python's logging while it starts."""
    before = os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
