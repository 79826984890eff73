"""The server of examples/server under 1, 2 and 8 clients: photos a second, p99, wrong answers.

    python tests/benchmarks/server.py [BUNDLE] [--photos 1000] [--size 1280x720] [--json]

Each client posts JPEGs over a connection of its own, one after the other. The clients run on the same cores as the
server. Without a bundle the fixture of the tests is used, whose network is tiny: decoding is nearly all then.
"""

import argparse
import http.client
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rrr_edge import Classifier

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "tests" / "bundle" / "fixtures" / "bundle-0.1.0.tar.xz"
CLIENTS = (1, 2, 8)
WARM = 50


def draw_photos(size: str, count: int = 16) -> list[bytes]:
    """JPEGs of smooth colours with some noise, which take as long to decode as photos do."""
    width, height = map(int, size.split("x"))
    rng, photos = np.random.default_rng(0), []
    for _ in range(count):
        small = Image.fromarray(rng.integers(0, 256, (9, 16, 3), np.uint8)).resize((width, height))
        pixels = np.asarray(small, np.int16) + rng.integers(-8, 9, (height, width, 3), np.int16)
        file = io.BytesIO()
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        photos.append(file.getvalue())
    return photos


def measure(port: int, photos: Sequence[bytes], expected: Sequence[float], clients: int, count: int) -> dict[str, Any]:
    def work(client: int) -> tuple[list[float], int]:
        connection, times, wrong = http.client.HTTPConnection("127.0.0.1", port), [], 0
        for number in range(client, count, clients):
            which = number % len(photos)
            begin = time.perf_counter()
            connection.request("POST", "/predict", photos[which])
            reply = connection.getresponse()
            answer = json.load(reply)
            times.append((time.perf_counter() - begin) * 1e3)
            wrong += reply.status != 200 or abs(answer["probability"] - expected[which]) > 1e-5
        connection.close()
        return times, wrong

    begin = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(work, range(clients)))
    lasted = time.perf_counter() - begin
    times = np.concatenate([own for own, _ in done])
    return {
        "clients": clients,
        "photos_per_s": round(count / lasted, 1),
        "median_ms": round(float(np.median(times)), 2),
        "p99_ms": round(float(np.percentile(times, 99)), 2),
        "wrong": sum(wrong for _, wrong in done),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--photos", type=int, default=1000)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    photos = draw_photos(asked.size)
    with tempfile.TemporaryDirectory() as work:
        if asked.bundle is None:
            with tarfile.open(ARCHIVE) as archive:
                archive.extractall(work, filter="data")
            asked.bundle = Path(work) / "shapes-0.1.0.rrr"
        with Classifier.open(asked.bundle) as classifier:
            expected = [classifier.predict(photo).probability for photo in photos]
            begin = time.perf_counter()
            for number in range(asked.photos):
                classifier.predict(photos[number % len(photos)])
            alone = asked.photos / (time.perf_counter() - begin)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "uvicorn", "server:app", "--port", str(port), "--log-level", "error"]
        environment = os.environ | {"BUNDLE": str(asked.bundle.resolve())}
        server = subprocess.Popen(command, cwd=ROOT / "examples" / "server", env=environment)
        try:
            wait(port)
            measure(port, photos, expected, 2, WARM)
            rows = [measure(port, photos, expected, clients, asked.photos) for clients in CLIENTS]
        finally:
            server.terminate()
            server.wait()
    if asked.json:
        print(json.dumps({"predict_per_s": round(alone, 1), "server": rows}, indent=2))
        return
    print(f"Classifier.predict without a server, one thread: {alone:.1f} photos/s")
    for row in rows:
        print(
            "{clients} clients: {photos_per_s} photos/s, {median_ms} ms, p99 {p99_ms} ms, {wrong} wrong".format(**row)
        )


def wait(port: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


if __name__ == "__main__":
    main()
