"""What DVC runs, a file a stage. The library comes first: it says what onnxruntime may not tell."""

from pipeline.errors import leave_on_ctrl_c

leave_on_ctrl_c()
