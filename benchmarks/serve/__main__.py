"""`python -m benchmarks.serve`."""

from benchmarks.serve.load import main

if __name__ == "__main__":
    main()
