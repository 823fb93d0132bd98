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

with Progress(num_steps=8, steps_done=2, num_epochs=3) as progress:
    for _ in range(6):
        time.sleep(0.2)
        if progress.step(num_views=100):
            progress.show(loss=4.5, lr=0.25)
    progress.show_epoch({"epoch": 2.0, "loss": 4.25, "knn_top1": 0.875})
"""


def test_without_a_terminal_there_is_a_line_an_epoch_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True)
    assert done.stdout == "epoch 2/3: loss 4.25, knn_top1 0.875\n"
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
    assert re.search(r"\d/8 \[\d\d:\d\d<\d\d:\d\d", text)  # gone < left
    assert "epoch 2/3: loss 4.25, knn_top1 0.875" in text
