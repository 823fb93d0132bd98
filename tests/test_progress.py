"""What a person sees while a run goes on, with a terminal and without one."""

import os
import pty
import re
import subprocess
import sys
import termios

RUN = """
import time
from pipeline.training.display.progress import Progress

with Progress(num_steps=12, steps_done=2, num_epochs=3) as progress:
    for _ in range(6):
        time.sleep(0.2)
        if progress.step(num_views=100):
            progress.show(loss=4.5, lr=0.25)
    row = {"epoch": 2.0, "loss": 4.25, "lr": 0.3, "top1": 0.5, "knn_top1": 0.875}
    progress.show_epoch(row, spread=0.9, views_per_s=1234.5)
    row = {"epoch": 3.0, "loss": 4.0, "lr": 0.0, "knn_top1": 0.9, "probe_top1": 0.8}
    progress.show_epoch(row, spread=0.85, views_per_s=None)
"""
# four steps of 0.2 s are left, on a machine that may be slow
TABLE = [
    "    epoch      loss  learning rate     kNN   probe  spread   views/s  time left",
    "      2/3      4.25            0.3   0.875       -   0.900     1,234      00:0[1-3]",
    "      3/3         4              0   0.900   0.800   0.850         -      00:0[1-3]",
]


def test_without_a_terminal_there_is_a_table_with_a_line_an_epoch_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    assert re.fullmatch("\n".join([*TABLE, ""]), done.stdout)
    assert done.stderr == ""


def test_a_terminal_shows_loss_learning_rate_views_per_second_and_time_left() -> None:
    leader, follower = pty.openpty()
    termios.tcsetwinsize(follower, (24, 120))
    process = subprocess.Popen([sys.executable, "-c", RUN], stdout=follower, stderr=follower)
    os.close(follower)
    seen = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert process.wait() == 0
    text = seen.decode()
    assert "loss 4.500, lr 0.25" in text
    assert re.search(r"[45]\d\d views/s", text)
    assert re.search(r"\d/12 \[\d\d:\d\d<\d\d:\d\d", text)  # gone < left
    for line in TABLE:
        assert re.search(line, text)
