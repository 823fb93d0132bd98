"""`python -m benchmarks.serve`."""

from benchmarks.serve.load import main

main()
