"""One Classifier that many threads share, on each backend that runs here."""

import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from fake_bundle import write_bundle

from rrr_edge.backends.fake import Fake
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.reference import Outputs
from rrr_edge.errors import UsageError
from rrr_edge.runtime.classifier import Classifier

THREADS, CALLS = 8, 60
ARCHIVE = Path(__file__).parents[1] / "bundle" / "fixtures" / "bundle-0.1.0.tar.xz"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("threads")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return Bundle.open(folder / "shapes-0.1.0.rrr")


@pytest.fixture(params=["openvino", "onnxruntime"])
def classifier(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Classifier]:
    with Classifier.open(bundle.path, request.param, precision="fp32", threads=1) as classifier:
        yield classifier


def test_every_thread_gets_the_answers_to_its_own_frames(classifier: Classifier, bundle: Bundle) -> None:
    frames = bundle.reference.images
    expected = np.stack([classifier.predict(frame).probabilities for frame in frames])
    begin = Barrier(THREADS)

    def work(thread: int) -> list[tuple[int, np.ndarray]]:
        begin.wait()
        which = [(thread * 7 + call) % len(frames) for call in range(CALLS)]
        return [(index, classifier.predict(frames[index]).probabilities) for index in which]

    with ThreadPoolExecutor(THREADS) as pool:
        answers = [answer for own in pool.map(work, range(THREADS)) for answer in own]
    assert len(answers) == THREADS * CALLS
    for index, found in answers:
        np.testing.assert_allclose(found, expected[index], atol=1e-6)


def test_closing_waits_for_what_is_being_answered_and_refuses_the_rest(classifier: Classifier, bundle: Bundle) -> None:
    frames = bundle.reference.images
    begin = Barrier(THREADS + 1)

    def work(thread: int) -> str:
        begin.wait()
        try:
            while True:
                classifier.predict(frames[thread % len(frames)])
        except UsageError as error:
            return str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        ends = [pool.submit(work, thread) for thread in range(THREADS)]
        begin.wait()
        classifier.close()
        assert {end.result(30) for end in ends} == {"This classifier is closed."}


def test_an_engine_is_never_inside_two_calls_and_its_memory_is_copied_before_the_next(tmp_path: Path) -> None:
    """The session's arrays are its own buffers, as an engine's may be."""
    inside = 0
    buffer = np.zeros((1, 3), np.float32)

    def answer(images: np.ndarray) -> Outputs:
        nonlocal inside
        inside += 1
        assert inside == 1
        buffer[:] = 0
        buffer[0, images[0, 0, 0, 0] % 3] = 1
        sum(range(2000))  # another thread may come meanwhile
        inside -= 1
        return Outputs(buffer, buffer[:, None])

    classifier = Classifier(Fake(answer), write_bundle(tmp_path / "fakes.rrr").manifest)
    frames = [np.full((16, 16, 3), value, np.uint8) for value in range(3)]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda call: classifier.predict(frames[call % 3]).index, range(600)))
    assert found == [call % 3 for call in range(600)]
