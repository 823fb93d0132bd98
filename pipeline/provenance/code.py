"""Which code the outputs depend on: another word in a message is no reason to train again.

DVC runs a stage again when a file among its deps changes, and a run goes on from a checkpoint only under the
code that wrote it. What stands here is neither: tests/test_chain_definition.py holds dvc.yaml to this table,
and the key of a checkpoint leaves it out (pipeline/training/resuming/run_key.py).
"""

import sys
from pathlib import Path, PurePosixPath

_CODE = ("models", "pipeline", "stages")

# A module, or a room with all that is in it, and why it cannot change a byte of what a stage writes.
WITHOUT_EFFECT = {
    "pipeline/errors.py": "what a person is told, and the exit code; what fails writes nothing",
    "pipeline/atomic.py": "how a file takes its name, not what stands in it",
    "pipeline/pictures.py": "draws what a person looks at; no picture is an output",
    "pipeline/provenance/": "says what is run again, and refuses what changed meanwhile; it writes nothing",
    "pipeline/params/explain.py": "how a wrong value is said; a wrong value writes nothing",
    "pipeline/evaluation/verdict.py": "says in words what figures say that stand in the metrics",
    "pipeline/training/guards.py": "stops a run or warns; what it stops writes nothing",
    "pipeline/training/distributed/ranks.py": "starts and ends processes; what they write is their own",
    "pipeline/training/display/": "what a person sees of a run; no figure that is kept comes from it",
    "pipeline/training/resuming/autosave.py": "when a run is saved; it goes on to the same bytes",
    "pipeline/training/resuming/interrupts.py": "when a run is stopped; it goes on to the same bytes",
    "pipeline/training/resuming/kept_runs.py": "which checkpoints are removed; each ends in the same bytes",
    "pipeline/training/resuming/run_key.py": "which checkpoint is taken; each ends in the same bytes",
}
# Of these there is a stage whose output it can change: the page says it too.
_BUT_IN = {"pipeline/evaluation/verdict.py": "report"}
# Files that are no modules, and the module that puts what stands in them into an output.
READ_BY = {"pipeline/report/page.py": "pipeline/report/web/"}
_SECTIONS = PurePosixPath("pipeline/params")
_OF_EVERY_SECTION = ("section", "reader")


def why_without_effect(module: str, section: str) -> str | None:
    """Why a module cannot change what a stage writes; None where it can.

    Args:
        module: its path in the project, like `pipeline/errors.py`.
        section: of params.yaml, which the stage reads.

    Returns:
        The reason: that of `WITHOUT_EFFECT`, that an `__init__` only names things, or that the module types
        another section of params.yaml.
    """
    path = PurePosixPath(module)
    if path.name == "__init__.py":
        return "an __init__ names things and does nothing"
    # pretrain_views.py is a part of section pretrain
    if (
        path.parent == _SECTIONS
        and path.stem not in _OF_EVERY_SECTION
        and path.stem.partition("_")[0] != section
        and module not in WITHOUT_EFFECT
    ):
        return "the other sections are read to refuse a wrong value before any work"
    if _BUT_IN.get(module) == section:
        return None
    for place, reason in WITHOUT_EFFECT.items():
        if module == place or (place.endswith("/") and module.startswith(place)):
            return reason
    return None


def code_files() -> dict[str, Path]:
    """Every file of the project's code, by its path in the project, like `pipeline/errors.py`."""
    project = Path(__file__).resolve().parents[2]
    modules = [path for folder in _CODE for path in (project / folder).rglob("*.py")]
    others = [path for place in READ_BY.values() for path in (project / place).rglob("*") if path.is_file()]
    return {path.relative_to(project).as_posix(): path for path in sorted([*modules, *others])}


def loaded_code() -> dict[str, Path]:
    """Of these the files that this process has imported, runs, or reads for a module that it has imported."""
    imported = {
        Path(file).resolve()
        for module in list(sys.modules.values())
        if (file := getattr(module, "__file__", None)) is not None
    }
    files = code_files()
    found = {name for name, path in files.items() if path in imported}
    read = tuple(READ_BY[name] for name in READ_BY if name in found)
    return {name: path for name, path in files.items() if name in found or name.startswith(read)}
