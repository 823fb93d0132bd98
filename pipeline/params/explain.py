"""How a wrong value of params.yaml is said: one line with key, value and rule."""

import difflib

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails


def explain(error: ValidationError, params: type[BaseModel]) -> str:
    """The first of pydantic's errors as `key: value and rule`, and how many others there are.

    Args:
        error: of a params.yaml.
        params: the whole of it, to look a misspelt key up in.
    """
    # an unknown key first: it is the misspelling of one that is missing
    first, *others = sorted(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    more = f" (and {len(others)} more)" if others else ""
    return f"{_explain(first, params)}{more}"


def _explain(error: ErrorDetails, params: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "the file"
    value = error["input"]
    match error["type"]:
        case "missing":
            return f"{key}: missing; 'lookalike upgrade' adds what is new"
        case "extra_forbidden":
            return f"{key}: unknown key{_nearest(error['loc'], params)}"
        case "literal_error":
            choices = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ")
            return f"{key}: {value!r} is none of {choices}"
        case "value_error":
            return f"{key}: {error['ctx']['error']}"
        case "too_short":
            return f"{key}: {list(value)!r} should have at least {error['ctx']['min_length']} values"
        case "model_type" | "model_attributes_type":
            return f"{key}: {value!r} should be a section with keys of its own"
        case _:
            rule = error["msg"].removeprefix("Input should be ").removeprefix("Input should ")
            return f"{key}: {value!r} should be {rule}"


def _nearest(loc: tuple[int | str, ...], params: type[BaseModel]) -> str:
    """`, did you mean ...?` for a key that looks like a known one of the same section."""
    section = params
    for part in loc[:-1]:
        child = section.model_fields[str(part)].annotation
        if not (isinstance(child, type) and issubclass(child, BaseModel)):
            return ""
        section = child
    near = difflib.get_close_matches(str(loc[-1]), section.model_fields, n=1)
    return f", did you mean {near[0]}?" if near else f"; known here: {', '.join(section.model_fields)}"
