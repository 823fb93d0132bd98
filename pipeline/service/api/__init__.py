"""What the service answers: its own search API, and the Open Inference Protocol."""
