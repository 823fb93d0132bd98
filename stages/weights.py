"""DVC stage `weights`: what the training begins with at this moment, in one hash, to data/weights.json."""

from pipeline.artifacts import Artifacts, write_json
from pipeline.atomic import lock
from pipeline.errors import UserError, plain_errors
from pipeline.params.pretrain_backbone import check_network
from pipeline.params.reader import load_params
from pipeline.provenance.loaded import Loaded
from pipeline.provenance.recorded import is_recorded
from pipeline.training.weights.start import start_sha256


def main() -> None:
    loaded = Loaded("weights", section="pretrain")
    params = load_params().pretrain
    check_network(load_params())  # an unknown name has no weights either, and should be told as unknown
    weights = Artifacts().weights
    try:
        sha256 = start_sha256(params.backbone)
    except UserError as error:
        if not is_recorded("pretrain", "pretrain", params, weights):
            raise
        print(f"weights: not here, and what was trained from them is kept as dvc.lock has it: {error}")
        return
    with lock(weights):
        loaded.check()
        write_json(weights, {"sha256": sha256})


if __name__ == "__main__":
    with plain_errors():
        main()
