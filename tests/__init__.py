"""Claims, each with an independent oracle. Several processes at once share the cores."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # before torch and FAISS are imported: one thread each, since two teams of threads on the same cores wait
    # for one another; and where a test asks for more, they sleep while they wait
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
