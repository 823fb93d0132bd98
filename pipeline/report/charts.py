"""The charts, as Vega-Lite specs in plain dicts; the page's script adds their data and their colours."""

from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]


def intervals(measures: Sequence[str], subjects: Sequence[str], *, with_bounds: bool) -> Spec:
    """Points with 95 % intervals: measure downwards, subjects beside each other in colours.

    Its data: measure, subject, value, low, high.
    """
    bounds = [
        {
            "mark": {"type": "rule", "strokeWidth": 2.5, "opacity": 0.45},
            "encoding": {"x": _share("low"), "x2": {"field": "high"}},
        }
    ]
    place = {
        "y": _named("measure", measures),
        "yOffset": _named("subject", subjects),
        "color": _color("subject", subjects),
    }
    return {
        # a step would make Vega-Lite warn of a width that fits its place
        "height": len(measures) * (13 * len(subjects) + 10),
        "transform": [{"filter": {"field": "measure", "oneOf": list(measures)}}],
        "encoding": place,
        "layer": [
            *(bounds if with_bounds else ()),
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {
                    "x": _share("value"),
                    "tooltip": [
                        {"field": "measure"},
                        {"field": "subject"},
                        *(_shown(name) for name in ("value", "low", "high")),
                    ],
                },
            },
        ],
    }


def over_epochs(columns: Sequence[str], *, share: bool, kept_epoch: int) -> Spec:
    """One or two figures of the training over its epochs. Its data: epoch and these columns."""
    y: Spec = {
        "field": "value",
        "type": "quantitative",
        "title": None,
        "scale": {"zero": False},
        "axis": {"format": ".0%" if share else "~g", "tickCount": 5},
    }
    x = {
        "field": "epoch",
        "type": "quantitative",
        "title": "epoch",
        "axis": {"tickMinStep": 1, "grid": False},
    }
    names = list(columns)
    color = {"color": _color("figure", names)} if len(names) > 1 else {}
    tooltip = [
        {"field": "epoch"},
        {"field": "figure"},
        {"field": "value", "format": ".2%" if share else ".4~g"},
    ]
    kept = {"x": {"field": "kept", "type": "quantitative"}}
    return {
        "height": 130,
        "transform": [{"fold": names, "as": ["figure", "value"]}, {"filter": "isValid(datum.value)"}],
        "layer": [
            {
                "data": {"values": [{"kept": kept_epoch}]},
                "mark": {"type": "rule", "strokeDash": [3, 3], "opacity": 0.6},
                "encoding": kept,
            },
            {
                "mark": {"type": "line", "point": {"size": 22}, "strokeWidth": 1.8},
                "encoding": {"x": x, "y": y, **color, "tooltip": tooltip},
            },
        ],
    }


def few_labels(subjects: Sequence[str]) -> Spec:
    """Accuracy over labelled images, and the band of its intervals. Its data: as few_labels.tsv has it."""
    x = {
        "field": "num_images",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False},
        "title": "labelled images to learn from",
        "axis": {"grid": False, "tickCount": 5, "format": "~s"},
    }
    scale = {"zero": False}
    return {
        "height": 260,
        "encoding": {"x": x, "color": _color("subject", subjects)},
        "layer": [
            {
                "mark": {"type": "area", "opacity": 0.18, "line": False},
                "encoding": {"y": _share("low", axis="y", scale=scale), "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "line", "point": {"size": 40}, "strokeWidth": 2},
                "encoding": {
                    "y": _share("mean", axis="y", scale=scale),
                    "tooltip": [
                        {"field": "subject"},
                        {"field": "num_images"},
                        *(_shown(name) for name in ("mean", "low", "high")),
                    ],
                },
            },
        ],
    }


def recall_against_work(factories: Sequence[str], target: float) -> Spec:
    """Recall over work, with its intervals, and the target. Its data: as recall.tsv has it."""
    x = {
        "field": "work_per_query",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False, "padding": 8},
        "title": "work of a query, in distances of an exact search",
        "axis": {"grid": False, "tickCount": 5, "format": "~s"},
    }
    scale = {"zero": False, "padding": 8}
    place = {"x": x, "color": _color("factory", factories)}
    return {
        "height": 260,
        "layer": [
            {
                "mark": {"type": "rule", "strokeDash": [4, 4], "aria": False},
                "encoding": {"y": {"datum": target}},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 2.5, "opacity": 0.45},
                "encoding": {**place, "y": _share("low", axis="y", scale=scale), "y2": {"field": "high"}},
            },
            {
                "mark": {"type": "line", "point": {"size": 40}, "strokeWidth": 2},
                "encoding": {
                    **place,
                    "y": _share("recall_at_10", axis="y", scale=scale),
                    "tooltip": [
                        {"field": "factory"},
                        {"field": "parameters"},
                        {"field": "work_per_query", "format": ",.0f"},
                        *(_shown(name) for name in ("recall_at_10", "low", "high")),
                    ],
                },
            },
        ],
    }


def recalls(classes: Sequence[str], subjects: Sequence[str]) -> Spec:
    """Recall of each class, a point a subject. Its data: class, subject, recall."""
    return {
        "height": 20 * len(classes),
        "encoding": {
            "y": _named("class", classes),
            "x": {**_share("recall"), "title": "recall"},
        },
        "layer": [
            {
                "mark": {"type": "rule", "opacity": 0.35},
                "encoding": {
                    "x": {"aggregate": "min", **_share("recall")},
                    "x2": {"aggregate": "max", "field": "recall"},
                },
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": {
                    "color": _color("subject", subjects),
                    "tooltip": [{"field": "class"}, {"field": "subject"}, _shown("recall")],
                },
            },
        ],
    }


def confusion(classes: Sequence[str], *, with_counts: bool) -> Spec:
    """The confusion matrix, as shares of each actual class. Its data: actual, predicted, images, share."""
    names = list(classes)
    axis = {"labelLimit": 90, "labelOverlap": False, "grid": False}
    place = {
        "y": {**_named("actual", names), "axis": axis, "title": "actual class"},
        "x": {
            **_named("predicted", names),
            "axis": {**axis, "labelAngle": -90 if len(max(names, key=len)) > 2 else 0, "orient": "top"},
            "title": "answered",
        },
    }
    layers: list[Spec] = [
        {
            "mark": {"type": "rect"},
            "encoding": {
                "color": {
                    "field": "share",
                    "type": "quantitative",
                    # most of a good encoder's shares are small
                    "scale": {"type": "sqrt", "domain": [0, 1], "interpolate": "rgb"},
                    "legend": None,
                },
                "tooltip": [
                    {"field": "actual"},
                    {"field": "predicted", "title": "answered"},
                    {"field": "images"},
                    _shown("share"),
                ],
            },
        }
    ]
    if with_counts:
        text = {"field": "images", "type": "quantitative"}
        strong = {"condition": {"test": "datum.share > 0.3", "value": "onstrong"}, "value": "onweak"}
        layers.append(
            {
                "mark": {"type": "text", "fontSize": 11},
                "encoding": {"text": text, "color": strong},
                "transform": [{"filter": "datum.images > 0"}],
            }
        )
    return {"height": 22 * len(names), "encoding": place, "layer": layers}


def _named(field: str, names: Sequence[str]) -> Spec:
    """In this order. As a domain names are data; as a `sort` they would be words of an expression."""
    return {"field": field, "type": "nominal", "sort": None, "scale": {"domain": list(names)}, "title": None}


def _color(field: str, names: Sequence[str]) -> Spec:
    return {**_named(field, names), "legend": {"title": None, "symbolOpacity": 1}}


def _share(field: str, axis: str = "x", scale: Spec | None = None) -> Spec:
    return {
        "field": field,
        "type": "quantitative",
        "title": None,
        "axis": {"format": ".0%", "tickCount": 6, "grid": True},
        "scale": scale if scale is not None else {"zero": False, "padding": 8},
    }


def _shown(field: str) -> Spec:
    return {"field": field, "format": ".1%"}
