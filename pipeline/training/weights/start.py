"""The weights that a run begins with: found, and held to what stage `weights` saw."""

from pathlib import Path

from pipeline.artifacts import Artifacts, read_json, sha256_of
from pipeline.errors import UserError
from pipeline.params.pretrain_backbone import Backbone


def start_weights(params: Backbone) -> Path | None:
    """The file of the weights that a run begins with; published ones are fetched where that must be.

    Returns:
        None where the weights are random.

    Raises:
        UserError: there is no such file, or the published weights cannot be had.
    """
    if params.weights is not None:
        return _local_file(params.weights)
    if not params.pretrained:
        return None
    from models.published_weights import published_weights

    try:
        return published_weights(params.name)
    except ValueError as error:
        raise UserError(f"params.yaml: pretrain.backbone: {error}") from None


def start_sha256(params: Backbone) -> str | None:
    """The sha256 of that file; None where the weights are random."""
    path = start_weights(params)
    return None if path is None else sha256_of(path)


def check_start(params: Backbone, data: Artifacts) -> str | None:
    """Holds that the weights are those that stage `weights` saw, and gives their sha256.

    Raises:
        UserError: they are others now, or that stage has not run.
    """
    found = start_sha256(params)
    seen = read_json(data.weights, made_by="weights")["sha256"]
    if found != seen:
        raise UserError(
            f"{data.weights}: the weights that the run begins with were {str(seen)[:12]} and are "
            f"{str(found)[:12]} now: run 'dvc repro'"
        )
    return found


def _local_file(written: str) -> Path:
    key = f"params.yaml: pretrain.backbone.weights: {written}"
    try:
        path = Path(written).expanduser()
        if path.is_file():
            return path
    except (RuntimeError, OSError, ValueError) as error:  # nobody's home; a name that no file can have
        raise UserError(f"{key}: {error}") from None
    raise UserError(f"{key}: {'a folder' if path.is_dir() else 'no such file'}: give a file of weights")
