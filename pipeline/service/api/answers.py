"""An answer in JSON."""

import json
from typing import Any

from fastapi.responses import Response


def as_json(document: Any) -> Response:
    """The document as a body; floats that are no numbers are a bug, since JSON has none."""
    return Response(json.dumps(document, allow_nan=False), media_type="application/json")
