"""What stands inside a page's own script elements: code, which is ours, and data, which never is code."""

import base64
import hashlib
import json
import re
from typing import Any

import vl_convert
from markupsafe import Markup

_VEGA = "window.vegaEmbed = vegaEmbed;"
# In JSON within an element of HTML: a class called `</script>` is a word.
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_ENDS = re.compile(r"<(/script|script|!--)", re.IGNORECASE)


def json_element(name: str, value: Any) -> Markup:
    """A script element of data, which the page's script finds by its id.

    Raises:
        ValueError: a number is none (NaN), which JSON does not know.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    element = '<script type="application/json" id="{}">{}</script>'
    return Markup(element).format(name, Markup(text.translate(_ESCAPES)))


def script_element(code: str) -> Markup:
    """A script element of our own code, which may name `<script` in a string.

    Args:
        code: JavaScript, in which `<script`, `</script` and `<!--` stand in strings alone.
    """
    return Markup("<script>{}</script>").format(Markup(_within_element(code)))


def script_hash(code: str) -> str:
    """What a Content-Security-Policy allows that script element by."""
    digest = hashlib.sha256(_within_element(code).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def vega() -> str:
    """Vega, Vega-Lite and vega-embed as one script, 0.9 MB, which asks nothing of a network."""
    return vl_convert.javascript_bundle(_VEGA)


def _within_element(code: str) -> str:
    return _ENDS.sub(r"\\x3c\1", code)
