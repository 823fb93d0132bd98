"""The backbone as one ONNX file: made, run, and asked about whole collections."""
