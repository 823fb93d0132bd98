"""Section 2: searches with what they found, and the mistakes that the encoder is surest of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import UNLABELLED
from pipeline.report import charts
from pipeline.report.album import Album, Tile
from pipeline.report.figures import Cell, Figure, per_cent, plain
from pipeline.report.nearest import nearest
from pipeline.report.run import Run

_NEIGHBORS = 10
_MISTAKES = 8
_SHOWN_OF_A_MISTAKE = 5
_LOOKED_AT = 2000  # wrong answers, of which the worst are shown


@dataclass(frozen=True)
class Row:
    """An image, what is said of it, and others beside it."""

    first: Tile
    words: str
    others: Sequence[Tile]


@dataclass(frozen=True)
class Search:
    """What the template shows.

    Attributes:
        queries: with their neighbours.
        asked: how the queries were chosen.
        mistakes: of the test images, the worst first.
        mistaken: what was asked, and how many were wrong; or why nothing is shown.
        hubs: on images that searches return too often or never; empty where it was not measured.
        recall: of the index, against its work; None of an exact one.
        figures: the tables of all.
    """

    queries: Sequence[Row]
    asked: str
    mistakes: Sequence[Row]
    mistaken: str
    hubs: str
    recall: Figure | None
    figures: Sequence[Figure]


def search(run: Run, album: Album, num_queries: int, seed: int) -> Search:
    ids = choose_queries(run, num_queries, seed)
    cosines, rows = nearest(run.embedding(ids), run.embeddings, _NEIGHBORS, itself=ids)
    queries = [_query(album, *of) for of in zip(ids.tolist(), rows, cosines, strict=True)]
    mistakes, mistaken, wrong = _mistakes(run, album, seed)
    table: list[list[Cell]] = [
        [query, rank, found, cosine, album.class_name(query), album.class_name(found), album.source(found)]
        for query, of, with_ in zip(ids.tolist(), rows.tolist(), cosines.tolist(), strict=True)
        for rank, (found, cosine) in enumerate(zip(of, with_, strict=True), start=1)
    ]
    columns = ("query", "rank", "id", "cosine", "query_class", "class", "source")
    recall = _recall(run)
    return Search(
        queries=queries,
        asked=_how_chosen(run, len(ids), seed),
        mistakes=mistakes,
        mistaken=mistaken,
        hubs=_hubs(run),
        recall=recall,
        figures=[
            *([recall] if recall is not None else ()),
            Figure("search", columns, table),
            Figure("mistakes", ("id", "class", "answered", "sureness", "source"), wrong),
        ],
    )


def choose_queries(run: Run, num: int, seed: int) -> NDArray[np.int64]:
    """Images at random, int64 [<= num]: of test where there are any, one of each class before a second."""
    candidates = run.of_split("test")
    if len(candidates) == 0:
        candidates = np.arange(run.size)
    drawn = np.random.default_rng(seed).permutation(candidates)
    labels = run.manifest["label"].to_numpy()[drawn]
    by_class = np.argsort(labels, kind="stable")
    _, firsts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.empty(len(drawn), dtype=np.int64)  # which of its class an image is
    turn[by_class] = np.arange(len(drawn)) - np.repeat(firsts, counts)
    chosen: NDArray[np.int64] = drawn[np.argsort(turn, kind="stable")[:num]]
    return chosen


def _hubs(run: Run) -> str:
    found = run.metrics["evaluate"]["encoder"].get("hubness")
    if not found or run.size == 1:
        return ""
    most = f"among the ten nearest of {per_cent(found['largest_share'])} % of all"
    return f"The most popular image is {most}; {per_cent(found['never_returned'])} % are among nobody's."


def _recall(run: Run) -> Figure | None:
    table = run.recall
    if table is None or len(table) < 2:
        return None
    index = run.metrics["index"]
    factories = list(dict.fromkeys(table["factory"]))
    said = (
        f"Recall of the index against the work of a query: {factories[0]} was chosen, with "
        f"{per_cent(index['recall_at_10'], 2)} % of the true ten nearest"
    )
    chart = charts.recall_against_work(factories, float(index["target_recall"]))
    rows = [[plain(cell) for cell in row] for row in table.itertuples(index=False)]
    return Figure("recall-of-the-index", tuple(table.columns), rows, chart, said)


def _how_chosen(run: Run, num: int, seed: int) -> str:
    what = "test image" if "test" in run.num_images else "image"
    what += "" if num == 1 else "s"
    classes = ", of different classes as long as there are any" if len(run.class_names) > 1 else ""
    return (
        f"{num} {what} drawn at random (seed {seed}){classes}. Each asks the whole collection and "
        "does not find itself. The number under an image is the cosine similarity: 1 is the same picture."
    )


def _query(album: Album, query: int, found: NDArray[np.int64], cosines: NDArray[np.float32]) -> Row:
    tiles, num_right, num_judged = [], 0, 0
    for neighbor, cosine in zip(found.tolist(), cosines.tolist(), strict=True):
        mark = ""
        if album.is_labelled(query) and album.is_labelled(neighbor):
            is_right = album.labels[neighbor] == album.labels[query]
            mark = "right" if is_right else "wrong"
            num_right, num_judged = num_right + is_right, num_judged + 1
        words = " ".join(filter(None, [album.class_name(neighbor), f"{cosine:.3f}"]))
        tiles.append(album.tile(neighbor, words, mark, f"cosine {cosine:.3f}"))
    words = f"{num_right} of {num_judged} of its class" if num_judged else ""
    return Row(album.tile(query), words, tiles)


def _mistakes(run: Run, album: Album, seed: int) -> tuple[list[Row], str, list[list[Cell]]]:
    """The rows, what they are, and their table."""
    protocol = next((name for name in ("knn", "retrieval") if len(run.answers(name))), None)
    if protocol is None:
        return [], "No answer could be scored: it takes labelled images in train and in test.", []
    answers = run.answers(protocol)
    wrong = answers[~answers["correct"].to_numpy(dtype=bool) & (answers["predicted"] != UNLABELLED)]
    asked = {"knn": "kNN", "retrieval": "the nearest image"}[protocol]
    num_wrong = int((~answers["correct"].to_numpy(dtype=bool)).sum())
    said = f"Asked by {asked}, {num_wrong:,} of {len(answers):,} test images got another class than theirs"
    if len(wrong) == 0:
        return [], f"{said}.", []
    if len(wrong) > _LOOKED_AT:
        wrong = wrong.sample(_LOOKED_AT, random_state=seed)
        said += f" (looked at here: {_LOOKED_AT:,} of them)"
    ids, predicted = wrong["id"].to_numpy(), wrong["predicted"].to_numpy()
    # the training images, which kNN asked too; of an unlabelled one no class can be said
    bank = run.embeddings[: 1 if "train" in run.num_images else None]
    cosines, rows = nearest(run.embedding(ids), bank, _NEIGHBORS)
    agree = album.labels[rows] == predicted[:, None]
    sureness = (cosines * agree).mean(axis=1)
    worst = np.lexsort((ids, -sureness))[:_MISTAKES]
    shown = [
        _mistake(run, album, int(ids[place]), int(predicted[place]), rows[place], cosines[place])
        for place in worst
    ]
    table: list[list[Cell]] = [
        [
            int(ids[place]),
            album.class_name(int(ids[place])),
            run.class_names[predicted[place]],
            float(sureness[place]),
            album.source(int(ids[place])),
        ]
        for place in worst
    ]
    rule = "The worst are those whose ten nearest training images agree most, and are nearest"
    return shown, f"{said}. {rule}: look whether the label or the encoder is wrong.", table


def _mistake(
    run: Run, album: Album, id_: int, predicted: int, found: NDArray[np.int64], cosines: NDArray[np.float32]
) -> Row:
    tiles = [
        album.tile(neighbor, f"{album.class_name(neighbor)} {cosine:.3f}", note=f"cosine {cosine:.3f}")
        for neighbor, cosine in list(zip(found.tolist(), cosines.tolist(), strict=True))[:_SHOWN_OF_A_MISTAKE]
    ]
    words = f"is {album.class_name(id_)}, answered {run.class_names[predicted]}"
    return Row(album.tile(id_, mark="wrong"), words, tiles)
