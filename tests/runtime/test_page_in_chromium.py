"""The live page in a real browser: the newest picture, the answer over it, and no error."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrr_edge.runtime.classifier import Answer, Prediction
from rrr_edge.runtime.streams import Frame
from rrr_edge.runtime.watch import LivePage, StreamResult

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--window-size=400,760", "--virtual-time-budget=3000"),
)
GREEN = (20, 160, 60)


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="there is no chromium and no google-chrome on PATH")
def test_a_browser_shows_the_picture_and_the_answer(tmp_path: Path) -> None:
    pixels = np.full((90, 120, 3), GREEN, np.uint8)
    row = np.array([0.93, 0.07], np.float32)
    prediction = Prediction("<b>mug", 0, 0.93, 0.1, row, row[None])
    answer = Answer(Frame(5, 0.0, time.monotonic(), pixels, 2), prediction, 1.2, 30.0)
    picture = tmp_path / "page.png"
    with LivePage("0", token="0123456789abcdef", lost=lambda: "it ended") as page:
        page(StreamResult(answer, prediction.label, 0.93, 0.1, 25.0))
        command = [
            BROWSER,
            *QUIET,
            f"--user-data-dir={tmp_path}/user",
            f"--screenshot={picture}",
            "--dump-dom",
            page.url,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert "CONSOLE" not in done.stderr
    said = {name: re.search(rf'id="{name}"[^>]*>([^<]*)<', done.stdout) for name in ("label", "state", "figures")}
    assert {name: found and found[1] for name, found in said.items()} == {
        "label": "&lt;b&gt;mug 93%",
        "state": "camera lost: it ended",
        "figures": "uncertainty 0.10 · 1.2 ms · 25.0 fps · age 30 ms · 2 dropped · frame 5",
    }
    drawn = np.asarray(Image.open(picture).convert("RGB"), np.int64)
    assert (np.abs(drawn - GREEN).max(axis=2) < 12).mean() > 0.1
