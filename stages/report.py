"""DVC stage `report`: everything that a run says of encoder and images, on one page, to data/report/."""

import time

from pipeline.artifacts import Artifacts, write_json
from pipeline.atomic import atomic_folder
from pipeline.errors import UserError, plain_errors
from pipeline.params.reader import PARAMS_FILE, load_params, parse_yaml, read_text
from pipeline.provenance.loaded import Loaded
from pipeline.report.page import make_page
from pipeline.report.run import read_run


def main() -> None:
    loaded = Loaded("report", section="report")
    params = load_params().report
    data = Artifacts()
    data.check_embeddings()
    text = read_text(PARAMS_FILE)  # the page shows all of it, so the stage depends on all of it

    def check() -> None:
        loaded.check()
        if read_text(PARAMS_FILE) != text:
            raise UserError(
                f"{PARAMS_FILE}: changed while stage 'report' ran, so it wrote nothing: run it again"
            )

    started = time.perf_counter()
    with atomic_folder(data.report_page.parent, check) as folder:
        page = make_page(read_run(data, parse_yaml(text, PARAMS_FILE)), params).encode()
        (folder / data.report_page.name).write_bytes(page)
    write_json(data.speed("report"), {"seconds": round(time.perf_counter() - started, 2)})
    print(f"{data.report_page}: {len(page) / 1e6:.1f} MB; open it in a browser")


if __name__ == "__main__":
    with plain_errors():
        main()
