"""Claims, each with an independent oracle. Several processes at once share the cores, a thread each."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # before torch and FAISS are imported: two teams of threads on the same cores wait for one another
    os.environ["OMP_NUM_THREADS"] = "1"
