"""The published schemas of a study's files are those of the code, and what is written fits them."""

import json
from pathlib import Path

import jsonschema
from made_up_study import TARGET, make_plan, write_data, write_study

from rrr_edge.bundle.schemas import schema_text
from rrr_edge.errors import BadInput
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.records import Failure
from rrr_edge.study.schemas import FOLDER, PUBLISHED


def test_the_published_files_are_those_of_the_code() -> None:
    """`python -m rrr_edge.study.schemas` writes them anew."""
    assert {file.stem for file in FOLDER.glob("*.json")} == set(PUBLISHED)
    for name, record in PUBLISHED.items():
        assert (FOLDER / f"{name}.json").read_text() == schema_text(record), f"{name}.json is out of date"


def test_what_a_study_writes_fits_them(tmp_path: Path) -> None:
    plan, study = make_plan(write_data(tmp_path / "data", "mugs"), target=TARGET), StudyFolder(tmp_path / "study")
    (first, *_) = plan.cells
    study.begin(first)
    begun = study.place(first) / "begun.json"
    jsonschema.validate(json.loads(begun.read_text()), _published("begun"))
    write_study(study, plan, {"rrr": 0.2, "finetune": 0.1}, {"rrr": 1.0, "finetune": 2.0})
    study.write_failure(Failure.of(first, BadInput("There is no picture.")))
    found = {
        "study": study.path / "study.json",
        "cell": study.place(first) / "cell.json",
        "timing": next(study.path.glob("timings/*/*.json")),
        "failure": next(study.path.glob("failures/*.json")),
    }
    for name, file in found.items():
        validator = jsonschema.Draft202012Validator(_published(name))
        document = json.loads(file.read_text())
        validator.validate(document)
        assert not validator.is_valid(document | {"surprise": 1})


def _published(name: str) -> object:
    return json.loads((FOLDER / f"{name}.json").read_text())
