"""The page in a real browser: no error, no request, light and dark, narrow and wide, sorted by a click."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from made_up_study import TARGET, make_plan, write_data, write_study
from PIL import Image

from rrr_edge.report.candidate import Candidate
from rrr_edge.report.page import page_of
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.page import write_study_report

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not BROWSER, reason="there is no chromium and no google-chrome on PATH"),
]
# Nothing that the browser does of its own accord leaves the machine.
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
)
# Opens the page 390 pixels wide, sorts its first table by the second column twice, and says what it saw.
PROBE = """<!DOCTYPE html><iframe src="report.html" width="390" height="800" style="border:0"></iframe><script>
document.querySelector("iframe").addEventListener("load", (event) => {
  const page = event.target.contentDocument;
  const table = page.querySelector("table.sortable");
  const column = () => [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[1].textContent));
  const found = {width: page.documentElement.scrollWidth, wide: page.querySelectorAll(".wide").length};
  const ratio = table.tHead.rows[0].cells[3];
  found.ratio = [ratio.textContent, ratio.getBoundingClientRect().right];
  const button = table.tHead.rows[0].cells[1].querySelector("button");
  button.click();
  found.up = column();
  button.click();
  found.down = column();
  found.sort = button.parentElement.getAttribute("aria-sort");
  document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
});
</script>"""


def browse(page: Path, *options: str) -> tuple[str, str, list[str]]:
    """What it printed, what the page's console said, and the addresses that the page asked for."""
    log = page.with_name("net.json")
    own = (f"--user-data-dir={page.with_name('user')}", f"--log-net-log={log}")
    command = [BROWSER, *QUIET, *own, *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    events = (line for line in log.read_text(errors="replace").splitlines() if '"initiator":"file:' in line)
    return done.stdout, console, [url for event in events for url in re.findall(r'"url":"(https?:[^"]*)"', event)]


@pytest.fixture(scope="module")
def page(full: Candidate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    (folder / "probe.html").write_text(PROBE)
    (folder / "report.html").write_text(page_of([full]))
    return folder / "report.html"


@pytest.mark.parametrize(("mode", "scheme"), [("light", "1"), ("dark", "0")])
def test_it_is_drawn_light_and_dark_without_a_word_or_a_request(mode: str, scheme: str, page: Path) -> None:
    picture = page.with_name(f"{mode}.png")
    shot = (f"--screenshot={picture}", "--window-size=1200,3000", f"--blink-settings=preferredColorScheme={scheme}")
    _, console, asked = browse(page, *shot)
    assert console == ""
    assert asked == []
    pixels = np.asarray(Image.open(picture).convert("L"), np.int64)
    ground = int(np.median(pixels))
    assert (ground > 240) if mode == "light" else (ground < 40)
    # Words and figures take a good part of every screenful, and none is of the ground's colour.
    drawn = np.abs(pixels - ground) > 90
    assert all(part.mean() > 0.005 for part in np.array_split(drawn, 5))


def test_on_a_phone_it_is_no_wider_than_the_screen_and_a_click_sorts(page: Path) -> None:
    said, console, _ = browse(page.with_name("probe.html"), "--dump-dom", "--virtual-time-budget=5000")
    assert console == ""
    match = re.search(r"FOUND(.*)END", said)
    assert match, said[:500]
    found = json.loads(match[1])
    assert found["width"] <= 390
    assert found["ratio"][0] == "times the engine's"
    assert found["ratio"][1] <= 390
    assert found["wide"] > 3
    assert len(found["up"]) > 5
    assert found["up"] == sorted(found["up"])
    assert found["down"] == sorted(found["up"], reverse=True)
    assert found["sort"] == "descending"


def test_the_checks_would_notice(page: Path) -> None:
    bad = page.with_name("bad.html")
    bad.write_text(page.read_text().replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'))
    _, console, _ = browse(bad, "--dump-dom")
    assert "Content Security Policy" in console
    free = page.with_name("free.html")
    free.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.error("noise")</script>')
    _, console, asked = browse(free, "--dump-dom")
    assert "noise" in console
    assert asked == ["http://127.0.0.1:9/x.png"]


def test_the_page_of_a_study_is_drawn_and_no_wider_than_a_phone(tmp_path: Path) -> None:
    plan = make_plan(write_data(tmp_path / "data", *(f"task{i}" for i in range(7))), seeds=(0, 1), target=TARGET)
    study = StudyFolder(tmp_path / "study")
    study.path.mkdir()
    write_study(study, plan, {"rrr": 0.2, "finetune": 0.1}, {"rrr": 1.0, "finetune": 8.0})
    page, _ = write_study_report(study)
    (study.path / "probe.html").write_text(PROBE)
    said, console, asked = browse(study.path / "probe.html", "--dump-dom", "--virtual-time-budget=5000")
    assert (console, asked) == ("", [])
    assert page.name in PROBE
    match = re.search(r"FOUND(.*)END", said)
    assert match, said[:500]
    found = json.loads(match[1])
    assert found["width"] <= 390
    assert found["down"] == sorted(found["up"], reverse=True)
