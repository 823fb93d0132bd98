"""DVC stage `scan`: what source and code are at this moment, as hashes, to data/source.json and data/code."""

from dataclasses import asdict

from pipeline.artifacts import SCRATCH, Artifacts, write_json
from pipeline.atomic import atomic_folder, lock
from pipeline.collection.absent import is_absent_and_recorded
from pipeline.collection.sources.fingerprint import fingerprint
from pipeline.errors import plain_errors
from pipeline.params.reader import load_params
from pipeline.provenance.imports import STAGES, stage_sha256
from pipeline.provenance.loaded import Loaded


def main() -> None:
    loaded = Loaded("scan", section="dataset")
    params = load_params().dataset
    data = Artifacts()
    source = data.source
    with atomic_folder(data.code, loaded.check) as folder:
        for stage in STAGES:
            write_json(folder / data.stage_code(stage).name, {"sha256": stage_sha256(stage)})
    if is_absent_and_recorded(params, source):
        what = f"what was read of it, in {source.parent}, is kept as dvc.lock has it"
        print(f"scan: {params.path} is not here or empty: {what}", flush=True)
        return
    with lock(source):
        found = fingerprint(params, SCRATCH / "hashes.sqlite")
        loaded.check()
        write_json(source, asdict(found))
    if found.num_files and params.path is not None:
        print(f"{params.path}: {found.num_files:,} files, {found.num_bytes / 1e6:,.1f} MB")


if __name__ == "__main__":
    with plain_errors():
        main()
