"""A project for stage `embed` alone: noise for photographs, toy networks, and nothing that trains."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.index.changes import write_encoder
from tests.conftest import ROOT, change_params

SIZE, DIM = 16, 12
TRAIN, TEST, VIEWED = 1500, 420, 1000


def write_project(folder: Path, **changes: object) -> Path:
    """params.yaml, and all that stage `embed` reads; a third of the images has no label."""
    (folder / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    change_params(folder / "params.yaml", {"embed.batch_size": 32} | changes)
    rng = np.random.default_rng(0)
    for path, count in (
        ("images/train.npy", TRAIN),
        ("images/test.npy", TEST),
        ("pretrain/augmented.npy", VIEWED),
    ):
        (folder / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / "data" / path, rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8))
    count = TRAIN + TEST
    pd.DataFrame(
        {
            "id": np.arange(count),
            "split": ["train"] * TRAIN + ["test"] * TEST,
            "label": np.arange(count) % 3 - 1,
            "sha256": [sha256(b"%d" % number).hexdigest() for number in range(count)],
        }
    ).to_parquet(folder / "data/images/manifest.parquet")
    collection = {"name": "noise", "num_images": {"train": TRAIN, "test": TEST}, "sha256": "ab"}
    (folder / "data/images/collection.json").write_text(json.dumps(collection))
    (folder / "data/encoder").mkdir()
    for seed, name in enumerate(("encoder", "start")):
        write_encoder(folder / f"data/encoder/{name}.onnx", DIM, SIZE, seed, data_sha256="ab")
    return folder


def embeddings_of(folder: Path) -> dict[str, bytes]:
    """The bytes of all that the stage wrote."""
    root = folder / "data/embeddings"
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
