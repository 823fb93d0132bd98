"""What made the outputs: the code and the params, and what dvc.lock has recorded of them."""
