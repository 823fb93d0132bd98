"""A run by what a person calls it: a folder, or a git revision or DVC experiment out of DVC's cache."""

from io import BytesIO
from pathlib import Path

from pipeline.artifacts import Artifacts, read_json, sha256_of
from pipeline.collection.sources.collection import printable
from pipeline.comparison.answered import MANIFEST, OUTCOMES, Answered, read_table
from pipeline.comparison.revision import read_revision
from pipeline.errors import UserError, existing


def open_run(name: str) -> Answered:
    """What a run said of its test images.

    Args:
        name: a folder of outputs (`data`), a project's folder that holds `data/`, or else a git revision or
            DVC experiment of the repository in the current folder. A folder stands before a revision.

    Raises:
        UserError: there is no such run, or its files are missing, damaged or not of one run.
        MachineError: it can only be a revision, and DVC is not installed.
    """
    shown = printable(name)
    if name and Path(name).is_dir():
        return _of_folder(Path(name), shown)
    files = read_revision(name, [f"data/{path}" for path in (OUTCOMES, MANIFEST)])
    outcomes, manifest = (
        read_table(BytesIO(files[f"data/{path}"]), path, f"{shown}: data/{path}")
        for path in (OUTCOMES, MANIFEST)
    )
    return Answered.of(shown, outcomes, manifest)


def _of_folder(folder: Path, shown: str) -> Answered:
    data = Artifacts(folder)
    if not (data.evaluation.exists() or data.images.exists()):
        data = Artifacts(folder / "data")
        if not data.root.is_dir():
            raise UserError(
                f"{shown}: a folder without evaluation/ or images/ and without data/, so no run: name one "
                f"that has them; a git branch of this name is 'refs/heads/{shown}'"
            )
    with existing(data.outcomes, "evaluate").open("rb") as file:
        outcomes = read_table(file, OUTCOMES, printable(str(data.outcomes)))
    with existing(data.manifest, "fetch").open("rb") as file:
        manifest = read_table(file, MANIFEST, printable(str(data.manifest)))
    if data.embeddings_card.exists():
        _check_generation(data)
    return Answered.of(shown, outcomes, manifest)


def _check_generation(data: Artifacts) -> None:
    """Between a fetch and the evaluation that follows it the ids are other images'.

    Raises:
        UserError: the embeddings, and so what was said of them, are of another manifest.
    """
    card = read_json(data.embeddings_card, made_by="embed")
    found = sha256_of(data.manifest)
    if card.get(data.manifest.name) != found:
        raise UserError(
            f"{data.outcomes}: is of manifest.parquet {str(card.get(data.manifest.name))[:12]}, and "
            f"{data.manifest} is {found[:12]} now: run 'dvc repro evaluate'"
        )
