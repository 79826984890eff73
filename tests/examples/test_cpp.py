"""The C++ example: built as its README says, it answers and refuses as Classifier does."""

import ctypes
import itertools
import json
import math
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from fake_bundle import rewrite
from PIL import Image
from small_bundle import COLOURS, flip_a_byte, link_bundle, write_target

from rrr_edge.backends.openvino.library import load_openvino
from rrr_edge.bundle.calibration import CALIBRATED, Calibration, LabelSets, Promise
from rrr_edge.bundle.doubt import MEASURES, Measure
from rrr_edge.bundle.engine import Engine
from rrr_edge.bundle.files import describe_file, sha256
from rrr_edge.bundle.folder import ENGINE, MANIFEST, Bundle
from rrr_edge.bundle.manifest import Manifest, Preprocess
from rrr_edge.bundle.quantisation import Quantisation
from rrr_edge.bundle.recipe import Fit
from rrr_edge.bundle.target import Target
from rrr_edge.compile import compile_bundle
from rrr_edge.errors import BadInput, CannotRunHere, CorruptArtifact, GateFailed, RRREdgeError, UsageError
from rrr_edge.images.fit import Region, fit
from rrr_edge.runtime.classifier import Classifier, Prediction
from rrr_edge.timing import machine

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "cpp"
README = (EXAMPLE / "README.md").read_text()
CONSOLE = re.search(r"```console\n(.*?)```", README, re.DOTALL)[1].splitlines()
RNG = np.random.default_rng(0)
TOLERANCE = 1e-6


def run(command: list[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)


def done(command: list[str | Path], **options: Any) -> str:
    ended = run(command, **options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def compiler() -> str:
    """The C++ compiler; skips where it or what the example needs beside it is missing."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    headers = [word for header in ("nlohmann/json.hpp", "openssl/evp.h") for word in ("-include", header)]
    if (
        not compiler
        or run([compiler, "-E", *headers, "-x", "c++", "/dev/null"]).returncode
        or not shutil.which("cmake")
    ):
        (install,) = (line for line in CONSOLE if "apt-get install" in line)
        pytest.skip(f"needs a C++ compiler, cmake and two libraries: {install}")
    return compiler


@pytest.fixture(scope="module")
def box(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for a device, made by the README's commands."""
    desk = tmp_path_factory.mktemp("cpp")
    (desk / "examples").symlink_to(ROOT / "examples")
    commands = [line for line in CONSOLE if line.startswith("cmake ")]
    assert len(commands) == 3
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix, "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}"}
    for command in commands:
        done(command.split(), cwd=desk, env=environment)
    return desk / "box"


@pytest.fixture(scope="module")
def parts(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """What runs no engine, which needs OpenVINO's headers but not its libraries."""
    library = tmp_path_factory.mktemp("parts") / "parts.so"
    flags = ["-std=c++17", "-O3", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-shared", "-fPIC"]
    folders = ["-I", EXAMPLE / "include", "-isystem", Path(load_openvino().__file__).parent / "include"]
    done([compiler, *flags, *folders, Path(__file__).with_name("parts.cpp"), "-o", library, "-lcrypto"])
    parts = ctypes.CDLL(str(library))
    parts.measure.restype = ctypes.c_double
    return parts


def fit_cpp(parts: ctypes.CDLL, frame: np.ndarray, size: int, how: Fit = "crop") -> np.ndarray:
    assert frame.strides[1:] == (3, 1)
    out = np.zeros((size, size, 3), np.uint8)
    pixels, result = (ctypes.c_void_p(array.ctypes.data) for array in (frame, out))
    parts.fit(pixels, frame.shape[1], frame.shape[0], frame.strides[0], size, get_args(Fit).index(how), result)
    return out


@pytest.mark.parametrize(
    "quotas",
    [
        {"cpu.max": "100000 100000"},
        {"cpu.max": "50000 100000"},
        {"cpu.max": "9900000 100000"},
        {"cpu.max": "max 100000"},
        {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"},
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        {},
    ],
)
def test_threads_are_as_many_as_in_python(
    parts: ctypes.CDLL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quotas: dict[str, str]
) -> None:
    """Within a container's quota, of both versions of cgroups, and the CPU affinity."""
    for name, limit in quotas.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(limit + "\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_MEMBERSHIP", tmp_path / "none")
    mount, allowed = str(tmp_path).encode(), os.sched_getaffinity(0)
    try:
        for cpus in ({min(allowed)}, allowed):
            os.sched_setaffinity(0, cpus)
            for asked, of_target in itertools.product((0, 1, 2, 1000), repeat=2):
                expected = machine.threads_to_use(asked, of_target)
                assert parts.threads_to_use(asked, of_target, mount) == expected
    finally:
        os.sched_setaffinity(0, allowed)
    assert parts.threads_to_use(-1, 0, mount) == -UsageError.exit_code


def test_the_engine_computes_on_these_threads(box: Path, compiled: Bundle, frames: list[Path], tmp_path: Path) -> None:
    """Asked for or the target's, never more than there are, and within the affinity."""
    bundle = tmp_path / "copy.rrr"
    shutil.copytree(compiled.path, bundle)
    edit(CARD, target__threads=1000)(bundle)
    cores, first = machine.usable_cores(), str(min(os.sched_getaffinity(0)))
    for before, asked, expected in (([], [], cores), ([], ["--threads", "1"], 1), (["taskset", "-c", first], [], 1)):
        (line,) = done([*before, box / "classify", bundle, "--json", *asked, frames[0]]).splitlines()
        assert json.loads(line)["threads"] == expected


def test_the_cpu_has_the_name_that_python_gives_it(parts: ctypes.CDLL, tmp_path: Path) -> None:
    """Linux on ARM tells no model; OpenVINO's name for all of them is "ARM CPU"."""
    name = ctypes.create_string_buffer(1000)
    parts.cpu_name(b"/proc/cpuinfo", name)
    assert name.value.decode() == machine.cpu_info()[0]
    for told, expected in (
        ("processor\t: 0\nmodel name\t: Imaginary 9000: fast\nflags\t: avx2\n", "Imaginary 9000: fast"),
        ("processor\t: 0\nCPU implementer\t: 0x41\n", platform.machine()),
    ):
        (tmp_path / "cpuinfo").write_text(told)
        parts.cpu_name(str(tmp_path / "cpuinfo").encode(), name)
        assert name.value.decode() == expected


@pytest.mark.parametrize("word", ["mugs.rrr", "", "Anna's mugs.rrr", "a b", "$HOME", "a\nb", "'", "é"])
def test_words_are_quoted_as_in_python(parts: ctypes.CDLL, word: str) -> None:
    text = ctypes.create_string_buffer(1000)
    parts.quoted(word.encode(), text)
    assert text.value.decode() == shlex.quote(word)


def file_sha256(parts: ctypes.CDLL, path: str | Path) -> str | int:
    """The digest, or the exit code."""
    text = ctypes.create_string_buffer(65)
    return parts.file_sha256(str(path).encode(), text) or text.value.decode()


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000])
def test_files_are_hashed_in_blocks(parts: ctypes.CDLL, tmp_path: Path, size: int) -> None:
    (tmp_path / "file").write_bytes(RNG.bytes(size))
    assert file_sha256(parts, tmp_path / "file") == sha256(tmp_path / "file")


def test_a_file_may_be_larger_than_memory(parts: ctypes.CDLL, tmp_path: Path) -> None:
    """64 MB, all zeros, in a program that may take 32 MB more."""
    (tmp_path / "file").touch()
    os.truncate(tmp_path / "file", 1 << 26)
    words = """
        import ctypes, resource, sys
        parts, text = ctypes.CDLL(sys.argv[1]), ctypes.create_string_buffer(65)
        pages = int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 25),) * 2)
        print(parts.file_sha256(sys.argv[2].encode(), text), text.value.decode())
    """
    printed = done([sys.executable, "-c", textwrap.dedent(words), parts._name, tmp_path / "file"])
    assert printed == f"0 {sha256(tmp_path / 'file')}\n"


def test_what_cannot_be_read_is_not_called_corrupt(parts: ctypes.CDLL, tmp_path: Path) -> None:
    """A file whose first page fails, and a name that the system refuses; what is missing is for the caller to name."""
    for path in ("/proc/self/mem", tmp_path / ("x" * 300)):
        assert file_sha256(parts, path) == CannotRunHere.exit_code
    assert file_sha256(parts, tmp_path / "none") == file_sha256(parts, tmp_path) == 1


def test_the_header_knows_the_keys_of_every_record() -> None:
    """It refuses others, so a new one is added there, with what it changes in the answers."""
    header = re.sub(r'"\s+"', "", (EXAMPLE / "include" / "rrr_edge" / "bundle.hpp").read_text())
    known = {name: set(keys.split()) for name, keys in re.findall(r'\{"([^"]+)", "( [^"]+ )"\}', header)}
    records = {"preprocess": Preprocess, "target": Target, "quantisation": Quantisation}
    records |= {"promise": Promise, "sets": LabelSets}
    records |= {record.model_fields["kind"].default: record for record in (Manifest, Engine, Calibration)}
    assert known == {
        name: {field.alias or key for key, field in record.model_fields.items()} for name, record in records.items()
    }


def test_the_headers_stay_small() -> None:
    lines = {file.name: len(file.read_text().splitlines()) for file in (EXAMPLE / "include" / "rrr_edge").iterdir()}
    assert lines.keys() == {"bundle.hpp", "classifier.hpp", "fit.hpp"}
    assert max(lines.values()) <= 300
    assert sum(lines.values()) <= 630


@pytest.mark.parametrize("size", [32, 64, 112, 128, 224])
def test_fit_gives_the_same_pixels(parts: ctypes.CDLL, size: int) -> None:
    """Sides around every change of method and of the boxes' width, cut out of the middle of larger frames."""
    sides = {1, 2, 3, size // 2, 720, 1080, 16 * size, 16 * size + 1}
    sides |= {k * size + d for k in range(1, 6) for d in (-1, 0, 1)} | set(range(7, 5 * size, 1 + size // 6))
    assert len(sides) > 35
    for side in sorted(sides):
        large = RNG.integers(0, 256, (side + 3, side + 6, 3), dtype=np.uint8)
        large[::5] = 255 * (large[::5] > 127)
        for frame in (large[1 : side + 1, 1:], large[1:, 2 : side + 2]):
            differing = (fit_cpp(parts, frame, size) != fit(frame, size)).sum()
            assert differing == 0, f"{frame.shape} to {size}"


@pytest.mark.parametrize("how", ["squash", "pad"])
def test_squash_and_pad_give_the_same_pixels(parts: ctypes.CDLL, how: Fit) -> None:
    sides = (1, 2, 5, 31, 32, 33, 47, 63, 64, 65, 100, 127, 240, 512, 513, 720)
    for height, width in itertools.product(sides, sides):
        frame = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
        differing = (fit_cpp(parts, frame, 32, how) != fit(frame, 32, how)).sum()
        assert differing == 0, f"{frame.shape}"
    for shape in ((720, 1280), (1280, 720), (2160, 3840), (1, 5000)):
        frame = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
        assert (fit_cpp(parts, frame, 128, how) == fit(frame, 128, how)).all(), shape


def test_a_region_has_the_same_edges(parts: ctypes.CDLL) -> None:
    for _ in range(1000):
        shape = tuple(RNG.integers(1, 2000, 2).tolist())
        y, x = RNG.choice([0, 0.25, 0.5, 0.58, 0.999999, RNG.random()], 2).tolist()
        down, across = (min(share, 1 - start) for start, share in zip((y, x), RNG.random(2).tolist(), strict=True))
        rows, columns = map(Region(x, y, across, down).cut, np.broadcast_arrays(*np.indices(shape, sparse=True)))
        edges = (ctypes.c_int * 4)()
        parts.cut(shape[1], shape[0], *map(ctypes.c_double, (x, y, across, down)), edges)
        assert list(edges) == [columns[0, 0], rows[0, 0], columns.shape[1], rows.shape[0]]


@pytest.mark.parametrize(
    "region",
    [
        (-0.5, 0, 1, 1),
        (0.5, 0, 1, 1),
        (0, 0.1, 1, 0.95),
        (0, 0, 0, 1),
        (0, 0, 1, -0.1),
        (0, 0, 1, math.nan),
        (math.nan, 0, 1, 1),
        (0, math.inf, 1, 1),
    ],
)
def test_what_is_no_region_is_not_cut(parts: ctypes.CDLL, region: tuple[float, ...]) -> None:
    """However its fields got their values."""
    with pytest.raises(UsageError):
        Region(*region)
    assert parts.cut(8, 8, *map(ctypes.c_double, region), (ctypes.c_int * 4)()) == UsageError.exit_code


@pytest.mark.parametrize("value", [0, 255])
@pytest.mark.parametrize("shape", [(1, 1), (1, 20000), (20000, 1), (512, 512), (600, 8200)])
def test_fit_keeps_a_plain_colour(parts: ctypes.CDLL, shape: tuple[int, int], value: int) -> None:
    frame = np.full((*shape, 3), value, np.uint8)
    assert (fit_cpp(parts, frame, 32) == value).all()
    assert (fit_cpp(parts, frame, 2) == value).all()  # 600 to 2: boxes of 300 pixels


def answers(box: Path, bundle: Path, *words: str | Path, **options: Any) -> list[dict[str, Any]]:
    printed = done([box / "classify", bundle, "--threads", "1", "--json", *words], **options)
    return [json.loads(line) for line in printed.splitlines()]


def assert_alike(found: dict[str, Any], expected: Prediction) -> None:
    assert (found["label"], found["index"]) == (expected.label, expected.index)
    assert found["answered"] == expected.answered
    assert found["candidates"] == list(expected.candidates or ())
    for name in ("probability", "uncertainty", "confidence", "probabilities", "branch_probabilities"):
        ours, theirs = np.array(found[name]), np.array(getattr(expected, name))
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs).max() <= TOLERANCE, name


@pytest.fixture(scope="module")
def frames(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """All test photos, and noise of many sizes, as PPM files."""
    folder = tmp_path_factory.mktemp("frames")
    pictures = [Image.open(photo) for photo in sorted((shapes / "test").glob("*/*.png"))]
    assert len(pictures) == 24
    for shape in ((32, 32), (31, 32), (48, 90), (64, 64), (65, 130), (720, 1280), (1280, 720), (1, 1), (3, 200)):
        pictures.append(Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)))
    files = [folder / f"{number}.ppm" for number in range(len(pictures))]
    for picture, file in zip(pictures, files, strict=True):
        picture.save(file)
    return files


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_answers_are_python_s(box: Path, compiled: Bundle, frames: list[Path], precision: str) -> None:
    found = answers(box, compiled.path, "--precision", precision, *frames)
    assert [row["image"] for row in found] == list(map(str, frames))
    with Classifier.open(compiled.path, precision=precision, threads=1) as classifier:
        for row, expected in zip(found, classifier.predict_many(frames), strict=True):
            assert_alike(row, expected)
    assert all(row["ms"] > 0 for row in found)


@pytest.mark.parametrize("how", ["squash", "pad"])
def test_the_fit_is_the_manifest_s(box: Path, bundle: Bundle, frames: list[Path], how: Fit) -> None:
    edit(MANIFEST, preprocess__fit=how)(bundle.path)
    some = frames[-9:]
    with Classifier.open(bundle.path, precision="fp32", threads=1) as classifier:
        for row, expected in zip(
            answers(box, bundle.path, "--precision", "fp32", *some), classifier.predict_many(some), strict=True
        ):
            assert_alike(row, expected)


def test_a_region_of_interest_is_all_that_is_seen(box: Path, compiled: Bundle, frames: list[Path]) -> None:
    found = answers(box, compiled.path, "--roi", "0.1,0.25,0.6,0.5", *frames)
    with Classifier.open(compiled.path, threads=1, roi=(0.1, 0.25, 0.6, 0.5)) as classifier:
        for row, expected in zip(found, classifier.predict_many(frames), strict=True):
            assert_alike(row, expected)


def test_raw_frames_come_from_a_pipe(box: Path, compiled: Bundle) -> None:
    raw = RNG.integers(0, 256, (3, 72, 128, 3), dtype=np.uint8)
    command = [str(box / "classify"), str(compiled.path), "--threads", "1", "--json", "--raw", "128x72", "-"]
    ended = subprocess.run(command, input=raw.tobytes(), capture_output=True, check=True)
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    with Classifier.open(compiled.path, threads=1) as classifier:
        for row, expected in zip(found, classifier.predict_many(raw), strict=True):
            assert_alike(row, expected)
    ended = subprocess.run(command, input=raw.tobytes()[:-5], capture_output=True, check=False)
    assert ended.returncode == 5
    assert len(ended.stdout.splitlines()) == 2
    assert b"- ends after 27643 of a frame's 27648 bytes." in ended.stderr


def test_measures_of_doubt_are_python_s(parts: ctypes.CDLL) -> None:
    for branches in (1, 3, 8):
        rows = RNG.dirichlet([0.5] * 5, (20, branches)).astype(np.float32)
        rows[0] = np.eye(5, dtype=np.float32)[2]
        for row in rows:
            mean = row.mean(0)
            data = np.ascontiguousarray(np.concatenate((mean[None], row)))
            for name, measure in MEASURES.items():
                found = parts.measure(name.encode(), ctypes.c_void_p(data.ctypes.data), branches, 5)
                assert found == pytest.approx(float(measure(mean, row)), abs=1e-9), name


def test_a_calibration_is_followed_as_in_python(
    box: Path, compiled: Bundle, frames: list[Path], tmp_path: Path
) -> None:
    """Half of the answers are given; a temperature, and a level for each label."""
    measure: Measure = "mutual_information"
    bundle = link_bundle(compiled, tmp_path)
    shutil.copytree(compiled.engine_folder("openvino-int8"), bundle.engine_folder("openvino-int8"))
    with Classifier.open(bundle.path, threads=1) as classifier:
        doubts = sorted({answer.measures[measure] for answer in classifier.predict_many(frames)})
    threshold = sum(doubts[len(doubts) // 2 - 1 : len(doubts) // 2 + 1]) / 2
    calibrate(bundle, measure, threshold)
    found = answers(box, bundle.path, *frames)
    with Classifier.open(bundle.path, threads=1) as classifier:
        for row, expected in zip(found, classifier.predict_many(frames), strict=True):
            assert_alike(row, expected)
    assert {row["answered"] for row in found} == {True, False}
    calibrated = f"{INT8}/{CALIBRATED}"
    for damage, why in (
        (edit(calibrated, promise__by_class={}), "does not know its key 'by_class'"),
        (edit(calibrated, promise=None, measure="energy"), "this header does not know its measure 'energy'"),
        (edit(calibrated, measure=measure, labels=["a", "b", "c"]), "it is the calibration of another engine"),
        (lambda path: flip_a_byte(path / calibrated), "calibrated.json cannot be used"),
    ):
        damage(bundle.path)
        with pytest.raises(BadInput):
            Classifier.open(bundle.path)
        ended = run([box / "classify", bundle.path, frames[0]])
        assert (ended.returncode, why in ended.stderr) == (5, True), ended.stderr


def test_an_engine_s_nonsense_is_no_answer(box: Path, compiled: Bundle, frames: list[Path], tmp_path: Path) -> None:
    """The graph's answers times NaN."""
    openvino = load_openvino()
    bundle = link_bundle(compiled, tmp_path)
    write_engine(bundle, compiled, lambda answers: openvino.opset13.multiply(answers, np.float32(np.nan)))
    with Classifier.open(bundle.path) as classifier, pytest.raises(GateFailed):
        classifier.predict(frames[0])
    ended = run([box / "classify", bundle.path, frames[0]])
    assert (ended.returncode, "what is no probability" in ended.stderr) == (3, True), ended.stderr


def test_an_engine_that_fails_is_an_error_of_the_header(
    box: Path, compiled: Bundle, frames: list[Path], tmp_path: Path
) -> None:
    """The graph asks for more numbers than there are, which is seen only when it runs."""
    ops = load_openvino().opset13
    bundle = link_bundle(compiled, tmp_path)

    def reshaped(answers: Any) -> Any:
        axes = np.arange(len(answers.shape))
        count = ops.convert(ops.multiply(ops.reduce_max(answers, axes), np.float32(1000)), "i64")  # 333 at least
        counts = ops.concat([ops.reshape(count, np.array([1]), False)] * 2, 0)
        return ops.reshape(ops.reshape(answers, counts, False), np.array(answers.shape), False)

    write_engine(bundle, compiled, reshaped)
    ended = run([box / "classify", bundle.path, frames[0]])
    assert (ended.returncode, "OpenVINO cannot run the engine: " in ended.stderr) == (4, True), ended.stderr
    assert ended.stderr.count("\n") == 1


def write_engine(bundle: Bundle, compiled: Bundle, change: Callable[[Any], Any]) -> None:
    """The int8 engine of `compiled` with its answers changed."""
    folder = bundle.engine_folder("openvino-int8")
    folder.mkdir(parents=True)
    openvino = load_openvino()
    graph = openvino.Core().read_model(compiled.path / INT8 / "model.xml")
    for result in graph.get_results():
        answers = result.input_value(0)
        names = answers.get_names()
        answers.set_names(set())
        result.input(0).replace_source_output(change(answers).output(0))
        result.input_value(0).set_names(names)
    openvino.save_model(graph, folder / "model.xml", compress_to_fp16=False)
    shutil.copy(compiled.path / CARD, folder)
    edit(CARD, files=[describe_file(folder / name).model_dump() for name in ("model.xml", "model.bin")])(bundle.path)


def calibrate(bundle: Bundle, measure: Measure, threshold: float) -> None:
    """As if `rrr-edge calibrate` had found this."""
    folder, labels = bundle.engine_folder("openvino-int8"), bundle.manifest.labels
    record = Calibration(
        bundle="x",
        engine="openvino-int8",
        engine_sha256=sha256(folder / ENGINE),
        photos="x",
        photos_sha256="",
        images=9,
        correct=8,
        labels=labels,
        temperature=1.7,
        error_before=0,
        error_after=0,
        measure=measure,
        rankings=(),
        promise=Promise(max_error=0.1, confidence=0.9, threshold=threshold, photos=6, answered=5, wrong=0, bound=0.1),
        sets=LabelSets(coverage=0.9, levels=(0.2, 0.05, 0.01), own=(True,) * 3, mean_size=1),
        by_class=(),
        machine="",
        created="",
    )
    (folder / CALIBRATED).write_text(record.to_json())


def test_an_engine_of_a_batch_answers_single_frames(
    box: Path, compiled: Bundle, frames: list[Path], tmp_path: Path
) -> None:
    bundle = link_bundle(compiled, tmp_path)
    target = Target.load(write_target(tmp_path, batch=3, threads=1))
    compile_bundle(bundle, target)
    found = answers(box, bundle.path, "--target", "mine", "--precision", "fp32", *frames[:4])
    with Classifier.open(bundle.path, target) as classifier:
        for row, frame in zip(found, frames, strict=False):
            assert_alike(row, classifier.predict(frame))


def test_the_last_commands_of_the_readme_print_what_it_says(box: Path, compiled: Bundle, frames: list[Path]) -> None:
    (box.parent / "mugs.rrr").symlink_to(compiled.path)
    shutil.copy(frames[0], box.parent / "photo.ppm")
    (command,) = (line for line in CONSOLE if line.startswith("box/classify "))
    printed = done(command.split(), cwd=box.parent)
    (line,) = (line for line in README.splitlines() if line.endswith("  photo.ppm"))
    label, *words = printed.split()
    assert label in COLOURS
    assert len(words) == len(line.split()[1:])
    assert [words[1], words[3]] == ["uncertainty", "photo.ppm"]


def edit(path: str, **changes: Any) -> Callable[[Path], None]:
    """Change values of a sealed record, "a.b" for those within it, and seal it again."""

    def change(data: dict[str, Any]) -> None:
        for place, value in changes.items():
            *outer, last = place.split("__")
            inner = data
            for key in outer:
                inner = inner[key]
            inner[last] = value

    return lambda bundle: rewrite(bundle / path, change)


def rename(path: str, part: str, **names: str) -> Callable[[Path], None]:
    """Give other names to keys in a `part` of a sealed record, and seal it again."""

    def change(data: dict[str, Any]) -> None:
        data[part] = {names.get(key, key): value for key, value in data[part].items()}

    return lambda bundle: rewrite(bundle / path, change)


def unlist(path: str, name: str) -> Callable[[Path], None]:
    """Take a file out of those that a sealed record lists, and seal it again."""

    def change(data: dict[str, Any]) -> None:
        data["files"] = [file for file in data["files"] if file["name"] != name]

    return lambda bundle: rewrite(bundle / path, change)


INT8 = "engines/openvino-int8"
CARD = f"{INT8}/{ENGINE}"
CPU = machine.cpu_info()[0]


def as_fp16(bundle: Path) -> None:
    edit(CARD, target__precision="fp16")(bundle)
    (bundle / INT8).rename(bundle / "engines" / "openvino-fp16")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no bundle": (shutil.rmtree, "is not a bundle"),
    "no manifest": (lambda b: (b / MANIFEST).unlink(), "is not a bundle: it has no manifest.json"),
    "manifest flipped": (lambda b: flip_a_byte(b / MANIFEST), "manifest.json cannot be used"),
    "manifest empty": (lambda b: (b / MANIFEST).write_text(""), "manifest.json cannot be used"),
    "manifest of another kind": (edit(MANIFEST, kind="rrr-edge engine"), "manifest.json cannot be used"),
    "newer manifest": (edit(MANIFEST, schema=2), "has schema 2, not 1"),
    "unknown key": (edit(MANIFEST, temperature=2.0), "does not know its key 'temperature'"),
    "unknown preprocessing": (edit(MANIFEST, preprocess__gamma=2.2), "does not know its key 'gamma'"),
    "keys in one": (edit(MANIFEST, **{"preprocess__mean std": 1}), "does not know its key 'mean std'"),
    "unknown preprocessing for another": (rename(MANIFEST, "preprocess", decoding="gamma"), "its key 'gamma'"),
    "unlisted graph": (unlist(MANIFEST, "model.onnx"), "manifest.json cannot be used: model.onnx is listed 0 times"),
    "graph listed twice": (
        edit(MANIFEST, files=2 * [{"name": "model.onnx", "bytes": 1, "sha256": 64 * "0"}]),
        "listed 2 times",
    ),
    "another number of branches": (edit(MANIFEST, spec__branches=3), "its inputs and outputs are not those of the"),
    "unknown fit": (edit(MANIFEST, preprocess__fit="stretch"), "does not know its fit 'stretch'"),
    "unknown setting": (edit(CARD, target__voltage=5), "does not know its key 'voltage'"),
    "unknown setting for another": (rename(CARD, "target", max_batch="voltage"), "does not know its key 'voltage'"),
    "unknown way to quantise": (
        edit(CARD, target__quantisation=Quantisation().model_dump() | {"groups": 2}),
        "does not know its key 'groups'",
    ),
    "unlisted weights": (unlist(CARD, "model.bin"), "model.bin is listed 0 times instead of once"),
    "labels of other classes": (edit(MANIFEST, labels=["a", "b"]), "manifest"),
    "no engine": (lambda b: shutil.rmtree(b / INT8), "has no openvino-int8 engine"),
    "card flipped": (lambda b: flip_a_byte(b / CARD), "engine.json cannot be used"),
    "newer card": (edit(CARD, schema=2), "has schema 2"),
    "card of another engine": (edit(CARD, target__name="mine"), "it is of another engine"),
    "another model": (edit(CARD, model_sha256="0" * 63 + "1"), "compiled from another model.onnx"),
    "weights flipped": (lambda b: flip_a_byte(b / INT8 / "model.bin"), "model.bin has changed"),
    "graph cut": (lambda b: os.truncate(b / INT8 / "model.xml", 1000), "model.xml has changed"),
    "weights missing": (lambda b: (b / INT8 / "model.bin").unlink(), "model.bin is missing"),
    "newer OpenVINO": (edit(CARD, versions={"openvino": "9999.1.0"}), "was built with OpenVINO 9999.1.0"),
    "another CPU": (edit(CARD, target__cpu="Imaginary 9000"), f"is for a 'Imaginary 9000' CPU; this machine is {CPU}."),
    "another device": (edit(CARD, target__device="TPU"), "sees no device 'TPU'"),
    "another arithmetic": (as_fp16, "has no fp16 arithmetic"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_python_refuses_is_refused_with_the_same_exit_code(
    box: Path, compiled: Bundle, frames: list[Path], tmp_path: Path, fault: str
) -> None:
    path = tmp_path / "copy.rrr"
    shutil.copytree(compiled.path, path)
    damage, sentence = FAULTS[fault]
    damage(path)
    precision = "fp16" if fault == "another arithmetic" else "int8"
    expected = 0
    try:
        Classifier.open(path, precision=precision).close()
    except RRREdgeError as error:
        expected = error.exit_code
    ended = run([box / "classify", path, "--precision", precision, frames[0]])
    assert ended.returncode == expected, ended.stderr
    assert expected or fault == "another arithmetic"  # which this machine may have
    if expected:
        assert ended.stdout == ""
        assert sentence in ended.stderr
        assert re.search(r"\. [A-Z][^\n]+\n$", ended.stderr), "no advice"


def test_advice_is_a_command_whatever_the_bundle_is_called(
    box: Path, compiled: Bundle, frames: list[Path], tmp_path: Path
) -> None:
    """First its engine is damaged, then its calibration."""
    path = tmp_path / "Anna's mugs.rrr"
    shutil.copytree(compiled.path, path)
    options = ["--target", "openvino", "--precision", "int8"]
    (path / INT8 / CALIBRATED).write_text("")
    graph = (path / INT8 / "model.xml").read_bytes()
    for damage, words in ((graph[1:], ["compile", str(path)]), (graph, ["calibrate", str(path), "PHOTOS"])):
        (path / INT8 / "model.xml").write_bytes(damage)
        with pytest.raises(CorruptArtifact) as caught:
            Classifier.open(path, precision="int8")
        ended = run([box / "classify", path, frames[0]])
        advice = ended.stderr[ended.stderr.index(" Run: ") + 1 :].rstrip("\n")
        assert advice == caught.value.advice
        assert shlex.split(advice) == ["Run:", "rrr-edge", *words, *options]


def test_a_name_that_the_system_refuses_is_not_called_corrupt(box: Path, compiled: Bundle, frames: list[Path]) -> None:
    """Of a bundle, of an engine and of a photo."""
    long = "x" * 300
    with pytest.raises(CannotRunHere):
        Classifier.open(long)
    for words in ([long, frames[0]], [compiled.path, "--target", long, frames[0]]):
        ended = run([box / "classify", *words])
        assert (ended.returncode, "File name too long" in ended.stderr) == (4, True), ended.stderr
    ended = run([box / "classify", compiled.path, long])
    assert (ended.returncode, f"{long} cannot be opened" in ended.stderr) == (5, True), ended.stderr


def test_lack_of_memory_is_not_called_corrupt(box: Path, compiled: Bundle) -> None:
    """A frame of 3 GB in a program that may take 2."""
    limit = ["sh", "-c", f'ulimit -v {2 * 1024**2} && exec "$0" "$@"']
    ended = run([*limit, box / "classify", compiled.path, "--threads", "1", "--raw", "99999x9999", "-"], input="")
    assert (ended.returncode, ended.stderr.startswith("There is not enough memory")) == (4, True), ended.stderr


@pytest.mark.parametrize("target", ["onnxruntime"])
def test_an_engine_of_another_backend_is_refused(box: Path, compiled: Bundle, frames: list[Path], target: str) -> None:
    ended = run([box / "classify", compiled.path, "--target", target, "--precision", "fp32", frames[0]])
    assert ended.returncode == 4
    assert ended.stderr.startswith('The engine\'s backend is "onnxruntime"; this header runs "openvino".')


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be opened"),
        (b"", "is not a binary PPM file"),
        (b"P5 1 1 255\n\0", "is not a binary PPM file"),
        (b"P6 1 1 65535\n" + bytes(6), "8 bits a channel"),
        (b"P6 0 1 255\n", "1 to 100 million pixels"),
        (b"P6 99999 99999 255\n", "1 to 100 million pixels"),
        (b"P6 2 2 255\n" + bytes(11), "ends after 11 of a frame's 12 bytes"),
        (b"P6 2 2 255\n", "has no pixels"),
    ],
)
def test_what_is_no_picture_is_bad_input(
    box: Path, compiled: Bundle, tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "photo.ppm").write_bytes(content)
    ended = run([box / "classify", compiled.path, tmp_path / "photo.ppm"])
    assert ended.returncode == 5
    assert sentence in ended.stderr


def test_a_ppm_file_may_have_comments(box: Path, compiled: Bundle, tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (2, 3, 3), dtype=np.uint8)
    (tmp_path / "photo.ppm").write_bytes(b"P6\n# by hand\n3 # wide\n2\n255\n" + pixels.tobytes())
    (found,) = answers(box, compiled.path, tmp_path / "photo.ppm")
    with Classifier.open(compiled.path, threads=1) as classifier:
        assert_alike(found, classifier.predict(pixels))


@pytest.mark.parametrize(
    "words", [[], ["mugs.rrr"], ["--frames"], ["--threads"], ["--threads", "two"], ["--raw", "128"], ["--raw", "0x9"]]
)
def test_wrong_usage_is_2_and_says_how(box: Path, words: list[str]) -> None:
    ended = run([box / "classify", *words])
    assert ended.returncode == 2
    assert "usage: classify BUNDLE" in ended.stderr


@pytest.mark.parametrize("words", [["--help"], ["mugs.rrr", "-h"]])
def test_help_is_the_usage_and_no_error(box: Path, words: list[str]) -> None:
    ended = run([box / "classify", *words])
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: classify BUNDLE")
    assert "--help" in ended.stdout


@pytest.mark.parametrize("roi", ["0.5,0,0.6,1", "0,0,0,1", "-0.1,0,1,1", "nan,0,1,1", "0,0,1", "0,0,1,1,1", "a,b,c,d"])
def test_what_is_no_region_is_wrong_usage(box: Path, compiled: Bundle, roi: str) -> None:
    with pytest.raises(UsageError):
        Region.of(roi)
    ended = run([box / "classify", compiled.path, "--roi", roi, "none.ppm"])  # which would be looked for later
    assert ended.returncode == 2
    assert ended.stderr.startswith(("The region of interest is not inside the frame. ", "--roi takes four numbers"))


@pytest.fixture
def device(box: Path, compiled: Bundle, frames: list[Path], tmp_path: Path) -> Iterator[list[str]]:
    """The command that runs a program where there is the folder, a bundle's engine and a C++ run-time, and no more."""
    root = tmp_path / "root"
    shutil.copytree(box, root / "box")
    (root / "mugs.rrr").mkdir()
    shutil.copy(compiled.path / MANIFEST, root / "mugs.rrr")
    shutil.copytree(compiled.path / INT8, root / "mugs.rrr" / INT8)
    shutil.copy(frames[0], root / "photo.ppm")
    (root / "proc").mkdir()
    loaded = "".join(done(["ldd", file], env={}) for file in (root / "box").iterdir())
    for library in set(re.findall(r"(?:=> |^\t)(/\S+)", loaded, re.MULTILINE)):
        if not library.startswith(str(root)):
            (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, root / library[1:])
    mount = 'mount --rbind /proc "$0/proc" && exec chroot "$0" "$@"'
    enter = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(root)]
    ended = run([*enter, "/box/classify"]) if shutil.which("unshare") else None
    if ended is None or "usage:" not in ended.stderr:
        pytest.skip(f"a root folder cannot be changed here: {ended and ended.stderr}")
    yield enter
    shutil.rmtree(root)


def test_the_folder_is_all_that_a_device_needs(device: list[str], box: Path) -> None:
    root = Path(device[-1])
    held = {file.relative_to(root).parts[0] for file in root.rglob("*") if file.is_file()}
    assert {"box", "mugs.rrr", "photo.ppm"} <= held <= {"box", "mugs.rrr", "photo.ppm", "lib", "lib64", "usr"}
    assert not list(root.rglob("*python*"))
    printed = done([*device, "/box/classify", "mugs.rrr", "photo.ppm"], env={})
    assert printed.endswith("  photo.ppm\n")
    assert printed.split()[0] in COLOURS
    said = re.search(r"a folder of (\d+) MB", README)
    assert said
    size_mb = sum(file.stat().st_size for file in box.iterdir()) / 1e6
    assert abs(int(said[1]) - size_mb) < 10


def test_a_missing_library_is_a_sentence(device: list[str]) -> None:
    """First the frontend that reads the graph, then the plugin that computes."""
    (frontend,) = (Path(device[-1]) / "box").glob("libopenvino_ir_frontend.so.*")
    (plugin,) = (Path(device[-1]) / "box").glob("libopenvino_*_cpu_plugin.so")
    for library, code, sentence in (
        (frontend, 5, "model.xml cannot be used"),
        (plugin, 4, "sees no device 'CPU' here"),
    ):
        library.unlink()
        ended = run([*device, "/box/classify", "mugs.rrr", "photo.ppm"], env={})
        assert ended.returncode == code
        assert sentence in ended.stderr
        assert ended.stderr.count("\n") == 1
