"""DVC stage `scan`: what the source holds at this moment, in one hash, to data/source.json."""

from dataclasses import asdict

from pipeline.artifacts import SCRATCH, Artifacts, write_json
from pipeline.atomic import lock
from pipeline.collection.absent import is_absent_and_recorded
from pipeline.collection.sources.fingerprint import fingerprint
from pipeline.errors import plain_errors
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded


def main() -> None:
    loaded = Loaded("scan", section="dataset")
    params = load_params().dataset
    source = Artifacts().source
    if is_absent_and_recorded(params, source):
        what = f"what was read of it, in {source.parent}, is kept as dvc.lock has it"
        print(f"scan: {params.path} is not here or empty: {what}", flush=True)
        return
    with lock(source):
        found = fingerprint(params, SCRATCH / "hashes.sqlite")
        loaded.check()
        write_json(source, asdict(found))
    if found.num_files:
        print(f"{params.path}: {found.num_files:,} files, {found.num_bytes / 1e6:,.1f} MB")


if __name__ == "__main__":
    with plain_errors():
        main()
