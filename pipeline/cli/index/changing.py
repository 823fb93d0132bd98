"""`lookalike index`: an index folder, grown, shrunk and looked at without a rebuild."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import EXIT_FAULT, UserError

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Builds an index folder, adds images to it, removes some, and says what it holds.",
)

_Folder = Annotated[
    Path, typer.Option("--index", metavar="FOLDER", help="The index folder: of the chain, or a copy of one.")
]
_Force = Annotated[bool, typer.Option("--force", help="Also where DVC would drop the change.")]
_FOLDER = Path("data/index")
_IDS_AT_ONCE = 10_000_000


@app.command()
def add(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Image files, folders, .tar, .tar.gz and .zip of them."),
    ],
    index: _Folder = _FOLDER,
    class_name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="The class of all of them.")
    ] = None,
    force: _Force = False,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="What the encoder runs on.")] = "auto",
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images that it is given at a time.")] = 64,
) -> None:
    """Adds images to an index folder, and prints the ids that they get.

    They are embedded by the folder's own encoder, and exactly searched. An image whose file is there already
    is skipped; one that cannot be read is named on standard error. Whoever reads the folder sees it as it was
    or with all of them.

    \b
    Examples:
      lookalike index add photos/
      lookalike index add a.jpg b.png scans.tar --class scan
      lookalike index add photos/ --index /srv/index
    """
    from pipeline.collection.sources.collection import printable
    from pipeline.search.changes.adding import add as add_images

    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device: {device!r} is none of auto, cpu, cuda")
    if batch_size < 1:
        raise UserError(f"--batch-size: {batch_size} is below 1")
    if class_name is not None and not (class_name and class_name == printable(class_name)):
        raise UserError(f"--class: {printable(class_name)!r} is no name of a class")
    check_owner(index, force)
    added = add_images(index, paths, class_name, device, batch_size)  # type: ignore[arg-type]
    for image in added.skipped:
        print(f"{image.source}: {image.reason}", file=sys.stderr)
    ids = f" (ids {_span(added.ids)})" if added.ids else ""
    print(
        f"{printable(str(index))}: {len(added.ids):,} added{ids}, {added.num_known:,} already there, "
        f"{len(added.skipped):,} unreadable"
    )


@app.command()
def remove(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="Ids of images, as a search gives them, or 7-12.")
    ],
    index: _Folder = _FOLDER,
    force: _Force = False,
) -> None:
    """Takes images out of an index folder: no search finds them any more.

    Their ids are not given to others. Nothing but a list of them is written; `compact` takes them out of the
    files too.

    \b
    Examples:
      lookalike index remove 4007
      lookalike index remove 17 5000-5011 --index /srv/index
    """
    from pipeline.collection.sources.collection import printable
    from pipeline.search.changes.removing import remove as remove_images

    leaving = [id_ for text in ids for id_ in _ids(text)]
    check_owner(index, force)
    print(f"{printable(str(index))}: {remove_images(index, leaving):,} removed")


@app.command()
def compact(index: _Folder = _FOLDER, force: _Force = False) -> None:
    """Writes what was added and what is left as one index again; every id stays.

    It keeps its kind and what it learned from the first images, and is tuned to its recall again.

    \b
    Examples:
      lookalike index compact
      lookalike index compact --index /srv/index
    """
    from pipeline.collection.sources.collection import printable
    from pipeline.search.changes.compacting import compact as compact_folder

    check_owner(index, force)
    done = compact_folder(index)
    name = printable(str(index))
    if not (done.num_segments or done.num_removed):
        print(f"{name}: nothing to do")
        return
    print(
        f"{name}: {done.card.count:,} images in one index, of {done.num_segments + 1}; "
        f"{done.num_removed:,} removed went out of its files; recall@10 {done.card.recall_at_10:.4f}"
    )


@app.command()
def verify(index: _Folder = _FOLDER) -> None:
    """Reads every file of an index folder and says what is wrong; the exit code is 1 where something is.

    Each file is held against its hash in index.json, and the search against an exact one.

    \b
    Examples:
      lookalike index verify
      lookalike index verify --index /backup/index
    """
    from pipeline.collection.sources.collection import printable
    from pipeline.search.changes.verifying import verify as verify_folder

    verified = verify_folder(index)
    for fault in verified.faults:
        print(fault)
    name = printable(str(index))
    if verified.faults:
        print(f"{name}: {len(verified.faults)} wrong")
        raise typer.Exit(EXIT_FAULT)
    recall = "not measured" if verified.recall is None else f"{verified.recall:.4f}"
    print(f"{name}: {verified.card.count:,} images, every file as index.json says, recall@10 {recall}")


@app.command()
def info(
    index: _Folder = _FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Says what an index folder holds.

    \b
    Examples:
      lookalike index info
      lookalike index info --json --index /srv/index
    """
    from pipeline.search.changes.describing import describe

    described = describe(index)
    print(json.dumps(described, indent=2) if as_json else "\n".join(_lines(described)))


def check_owner(
    index: Path, force: bool, mend: str = "copy the folder to another name and change that"
) -> None:
    """Says what becomes of a change in a folder of DVC's, and refuses it unless it is forced.

    Raises:
        UserError: the folder is DVC's, and `force` is not said.
    """
    from pipeline.collection.sources.collection import printable
    from pipeline.search.changes.owned import owner_of

    owner = owner_of(index)
    if owner is None:
        return
    drops = f"{printable(str(index))}: DVC owns it ({owner.name}): the next 'dvc repro' drops this change"
    if not force:
        raise UserError(f"{drops}: {mend}, or say --force")
    print(f"{drops}; a copy of the folder under another name keeps it", file=sys.stderr)


def _ids(text: str) -> Iterator[int]:
    """`7`, or `7-12`."""
    match = re.fullmatch(r"(\d{1,12})(?:-(\d{1,12}))?", text, re.ASCII)
    if match is None:
        raise UserError(f"{text!r} is no id: name numbers, as 7, or 7-12 for all from 7 to 12")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 0 <= last - first < _IDS_AT_ONCE:
        raise UserError(f"{text!r} ends before it begins, or names more than {_IDS_AT_ONCE:,} images")
    yield from range(first, last + 1)


def _span(ids: range) -> str:
    return str(ids[0]) if len(ids) == 1 else f"{ids[0]} to {ids[-1]}"


def _lines(described: dict[str, Any]) -> Iterator[str]:
    encoder, thumbnails = described["encoder"], described["thumbnails"]
    sizes = [f"{segment['images']:,}" for segment in described["segments"]]
    tuned = "".join(f", {name} {value}" for name, value in described["search_parameters"].items())
    rows = {
        "generation": described["generation"],
        "images": f"{described['images']:,} of {described['dimension']} dimensions",
        "base": f"{described['base']:,}: {described['factory']}{tuned}",
        "segments": f"{len(sizes)}" + (f": {', '.join(sizes)}" if sizes else ""),
        "removed": f"{described['removed']:,}",
        "next id": str(described["next_id"]),
        "recall@10": f"{described['recall_at_10']:.4f} of the base, target {described['target_recall']}",
        "encoder": f"{encoder['name']} {encoder['version']}, {encoder['sha256'][:12]}"
        if encoder
        else "none: ids and embeddings alone are searched with",
        "thumbnails": f"{thumbnails['size']} px, {_bytes(thumbnails['bytes'])}" if thumbnails else "none",
        "on disk": _bytes(described["bytes"]),
        "compact": "would pay" if described["compact_pays"] else "would not pay yet",
    }
    width = max(map(len, rows))
    return (f"{name.ljust(width)}  {value}" for name, value in rows.items())


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB"
