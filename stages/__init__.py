"""What DVC runs, a file a stage. The library comes first: it says what onnxruntime may not tell."""

import pipeline  # noqa: F401
