import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rrr_edge.bundle.baseline import BaselineCard, card_of
from rrr_edge.bundle.files import describe_file
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.recipe import METHODS
from rrr_edge.bundle.schemas import FOLDER, PUBLISHED, schema_text
from rrr_edge.bundle.target import PACKAGED, Target
from rrr_edge.profile import profile_bundle
from rrr_edge.profile.request import Baselines
from rrr_edge.timing.interleave import TimingSettings


def published(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


def refuses(name: str, document: Any) -> bool:
    return not jsonschema.Draft202012Validator(published(name)).is_valid(document)


def test_the_published_files_are_those_of_the_code() -> None:
    """`python -m rrr_edge.bundle.schemas` writes them anew."""
    assert {file.stem for file in FOLDER.glob("*.json")} == set(PUBLISHED)
    for name, record in PUBLISHED.items():
        assert (FOLDER / f"{name}.json").read_text() == schema_text(record), f"{name}.json is out of date"


def test_the_module_writes_just_these(tmp_path: Path) -> None:
    code = (
        "import sys, runpy, pathlib, rrr_edge.bundle.schemas as schemas\n"
        "schemas.FOLDER = pathlib.Path(sys.argv[1]); runpy.run_module('rrr_edge.bundle.schemas.__main__')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {f.name: f.read_text() for f in FOLDER.glob("*.json")}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_they_are_valid_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(published(name))


def test_a_real_bundle_fits_and_a_changed_one_does_not(compiled: Bundle) -> None:
    documents = {"manifest": json.loads((compiled.path / "manifest.json").read_text())}
    cards = [compiled.engine_folder(name) / "engine.json" for name in compiled.engine_names()]
    assert len(cards) == 3
    for name, document in [*documents.items(), *(("engine", json.loads(card.read_text())) for card in cards)]:
        jsonschema.validate(document, published(name), jsonschema.Draft202012Validator)
        assert refuses(name, document | {"surprise": 1})
        assert refuses(name, {key: value for key, value in document.items() if key != "files"})


def test_a_profile_and_its_baseline_fit_and_changed_ones_do_not(bundle: Bundle) -> None:
    spec = bundle.manifest.spec
    path = bundle.baseline
    path.parent.mkdir()
    path.write_bytes(bundle.model.read_bytes())
    card = BaselineCard(
        name="itself", spec=spec, preprocess=bundle.manifest.preprocess, params=1, macs=1, model=describe_file(path)
    )
    card_of(path).write_text(card.to_json())
    target = Target.load("openvino").model_copy(update={"precision": "fp32"})
    profile_bundle(
        bundle, target, baselines=Baselines((path,)), timing=TimingSettings(runs=2, settle_runs=0, warm_up_ms=0)
    )
    for name, file in (
        ("profile", bundle.profile_folder("openvino-fp32") / "profile.json"),
        ("baseline", card_of(path)),
    ):
        document = json.loads(file.read_text())
        jsonschema.validate(document, published(name), jsonschema.Draft202012Validator)
        assert refuses(name, document | {"surprise": 1})
        assert refuses(name, {key: value for key, value in document.items() if key not in ("measurements", "model")})


def test_every_recipe_and_shipped_target_fits() -> None:
    for recipe in METHODS.values():
        jsonschema.validate(json.loads(recipe().to_json()), published("recipe"), jsonschema.Draft202012Validator)
    names = [file.stem for file in PACKAGED.glob("*.toml")]
    assert len(names) >= 5
    for name in names:
        jsonschema.validate(Target.load(name).document(), published("target"), jsonschema.Draft202012Validator)
    assert refuses("target", {"name": "x", "backend": "y", "precision": "int9"})
    assert refuses("recipe", {"method": "none"})
