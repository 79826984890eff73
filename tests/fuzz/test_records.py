"""Whatever is in a manifest, a card, a profile, a table or a TOML file: it is read, or refused in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_bundle import VERIFICATION, write_bundle, write_engine
from harness import bytes_changed, changed, fuzz
from hypothesis import strategies as st
from made_up import make_bundle, profile, store

from rrr_edge.bundle.baseline import BaselineCard, card_of
from rrr_edge.bundle.calibration import CALIBRATED, Calibration, ClassAnswers, LabelSets, Promise, Ranking
from rrr_edge.bundle.engine import DeviceVerification, Origin, Prepared
from rrr_edge.bundle.files import describe_file, sha256
from rrr_edge.bundle.folder import ENGINE, MANIFEST, PREPARED, PREPARED_CARD, PROFILE, VERIFIED, Bundle
from rrr_edge.bundle.manifest import Preprocess
from rrr_edge.bundle.profile import SAMPLES, Profile
from rrr_edge.bundle.recipe import RRR
from rrr_edge.bundle.record import UNSEALED, Sealed, sealed
from rrr_edge.bundle.settings import read_recipe
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.bundle.target import PACKAGED, Target
from rrr_edge.images.layouts import find_layout
from rrr_edge.report.reproduce import recipe_toml

JSON = (
    *(b"[" * 200_000, b'{"a":' * 100_000, b'{"schema": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    *(b"", b"null", b"[]", b"1e999", b'{"schema": true}', b'{"schema": 1e400}', b'{"schema": "1"}', b"\xff\xfe"),
    *(b"1" * 5_000, b'"\\udcff"', b'{"\\udcff": 1}'),
)
TOML = (
    *(b"", b"a", b"\xef\xbb\xbfname = 1", b"\x00", b"seed = 1_0", b"a = " + b"[" * 100_000),
    # Keys of many parts keep tomllib busy for the square of their number.
    *(b"a." * 9_000 + b"b = 1", b"[" + b"a." * 9_000 + b"b]", (b"a" + b".a" * 99 + b" = 1\n") * 400),
)
TARGET = Target(name="test", backend="fake", precision="int8")


def _sealed(data: bytes) -> bytes:
    """`data` with its seal in place, where it has one: a hand that edits may seal again."""
    try:
        document = json.loads(data)
        return sealed(json.dumps({**document, "seal": UNSEALED})).encode("utf-8", "surrogatepass")
    except (ValueError, TypeError, RecursionError):
        return data


def test_manifests(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "x.rrr")
    file = bundle.path / MANIFEST

    def check(data: bytes) -> None:
        file.write_bytes(_sealed(data))
        opened = Bundle.open(bundle.path)
        opened.check()
        assert opened.reference
        assert opened.calibration.size

    fuzz(check, changed(bundle.manifest.document()), seeds=JSON)


Card = tuple[Path, Sealed, Callable[[], object]]


def _engines(bundle: Bundle) -> Card:
    engine = write_engine(bundle, TARGET, ("engine.bin", b"x"))
    return bundle.engine_folder(engine.name) / ENGINE, engine, lambda: bundle.engine(TARGET)


def _verified(bundle: Bundle) -> Card:
    engine = write_engine(bundle, TARGET, ("engine.bin", b"x"))
    folder = bundle.engine_folder(engine.name)
    record = DeviceVerification(
        engine_sha256=sha256(folder / ENGINE),
        versions={"gpu": "x"},
        verification=VERIFICATION,
        precision_found={"int8": 1.0},
        created="",
        machine="",
    )
    return folder / VERIFIED, record, lambda: bundle.verified(engine)


def _prepared(bundle: Bundle) -> Card:
    folder = bundle.engine_folder(TARGET.engine_name)
    folder.mkdir(parents=True)
    (folder / PREPARED).write_bytes(b"a graph")
    origin = Origin(
        model_sha256="", precision="int8", lowering="grouped", calibration="", preparation=1, modelopt="0.44"
    )
    card = Prepared(
        origin=origin,
        file=describe_file(folder / PREPARED),
        verification=VERIFICATION,
        precision_found={"int8": 1.0},
        created="",
        machine="",
    )
    return folder / PREPARED_CARD, card, lambda: bundle.prepared(TARGET)


def _baselines(bundle: Bundle) -> Card:
    model = bundle.alternative("resnet152")
    model.parent.mkdir()
    model.write_bytes(b"a graph")
    preprocess, spec = Preprocess(image_size=32), ResNetSpec(num_classes=3)
    card = BaselineCard(name="x", spec=spec, preprocess=preprocess, params=1, macs=1, model=describe_file(model))
    return card_of(model), card, lambda: BaselineCard.read(model)


def _calibrated(bundle: Bundle) -> Card:
    engine = write_engine(bundle, TARGET, ("engine.bin", b"x"))
    folder = bundle.engine_folder(engine.name)
    labels = bundle.manifest.labels
    record = Calibration(
        bundle="x",
        engine=engine.name,
        engine_sha256=sha256(folder / ENGINE),
        photos="x",
        photos_sha256="",
        images=9,
        correct=8,
        labels=labels,
        temperature=1.5,
        error_before=0.1,
        error_after=0.05,
        measure="entropy",
        rankings=(Ranking(measure="entropy", area=0.9, interval=(0.8, 0.95)),),
        promise=Promise(max_error=0.1, confidence=0.9, threshold=0.5, photos=6, answered=5, wrong=0, bound=0.09),
        sets=LabelSets(coverage=0.9, levels=(0.1,) * len(labels), own=(True,) * len(labels), mean_size=1),
        by_class=tuple(ClassAnswers(label=label, photos=3, answered=2, wrong=0) for label in labels),
        machine="",
        created="",
    )

    def read() -> None:
        found = Calibration.of(bundle, engine)
        assert found
        assert found.doubt
        assert found.words

    return folder / CALIBRATED, record, read


CARDS = (_engines, _verified, _prepared, _baselines, _calibrated)


@pytest.mark.parametrize("make", CARDS, ids=["engine", "verified", "prepared", "baseline", "calibrated"])
def test_cards(tmp_path: Path, make: Callable[[Bundle], Card]) -> None:
    file, card, read = make(write_bundle(tmp_path / "x.rrr"))

    def check(data: bytes) -> None:
        file.write_bytes(_sealed(data))
        read()

    file.write_text(card.to_json())
    read()
    fuzz(check, changed(card.document()), seeds=JSON, share=1 / len(CARDS))


def test_profiles(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "x.rrr")
    candidate = store(bundle, profile(bundle))
    folder = bundle.profile_folder(candidate.profile.target.engine_name)
    card, samples = (folder / PROFILE).read_bytes(), (folder / SAMPLES).read_bytes()

    def check(data: bytes) -> None:
        (folder / PROFILE).write_bytes(_sealed(data))
        Profile.read(folder)

    fuzz(check, changed(json.loads(card)), seeds=JSON, share=1 / 2)
    (folder / PROFILE).write_bytes(card)

    def check_samples(data: bytes) -> None:
        (folder / SAMPLES).write_bytes(data)
        Profile.read(folder)

    fuzz(check_samples, bytes_changed(samples), seeds=(b"", b"\x00", b'a,"\n', b"\xff"), share=1 / 2)


ALBUM = b"FILE_NAME,CATEGORY\na.png,cup\nb.png,mug\nc.png,cup\nd.png,mug\n"
TABLES = (b"", b"\n", b"\x00", b"FILE_NAME", b'"', b"\xff", ALBUM.replace(b"a.png", b"../a.png"))


def test_tables(tmp_path: Path) -> None:
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(b"x")

    def check(data: bytes) -> None:
        (tmp_path / "labels.csv").write_bytes(data)
        find_layout(tmp_path)

    fuzz(check, bytes_changed(ALBUM), seeds=(*TABLES, b"\xef\xbb\xbf" + ALBUM), share=1 / 2)


def test_what_renames_a_tables_columns(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(ALBUM)

    def check(data: bytes) -> None:
        (tmp_path / "info.json").write_bytes(data)
        find_layout(tmp_path)

    info = {"image_column_name": "FILE_NAME", "category_column_name": "CATEGORY", "other": [1]}
    fuzz(check, changed(info), seeds=JSON, share=1 / 2)


@pytest.mark.parametrize("kind", ["target", "recipe"])
def test_toml(tmp_path: Path, kind: str) -> None:
    text = recipe_toml(RRR()) if kind == "recipe" else (PACKAGED / "openvino.toml").read_text()
    file = tmp_path / "file.toml"

    def check(data: bytes) -> None:
        file.write_bytes(data)
        read_recipe(file) if kind == "recipe" else Target.load(file)

    lines = st.lists(st.sampled_from(text.encode().splitlines(keepends=True)), max_size=12).map(b"".join)
    pieces = st.sampled_from(
        (b"a", b".", b"=", b"[", b"]", b"{", b"}", b'"', b"'", b"#", b"\n", b" ", b",", b"1", b"\\")
    )
    any_toml = st.lists(pieces, max_size=40).map(b"".join)
    fuzz(check, bytes_changed(text.encode()) | lines | any_toml, seeds=TOML, share=1 / 2)
