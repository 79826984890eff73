"""`rrr-edge study`: what it says before, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from fake_bundle import write_bundle
from made_up_study import make_record
from small_bundle import write_shapes

from rrr_edge.bundle.files import sha256
from rrr_edge.cli.app import app
from rrr_edge.study.folder import StudyFolder
from rrr_edge.study.plan import Plan

typer_testing = pytest.importorskip("typer.testing")


def run(*arguments: str | Path) -> tuple[int, str, str]:
    done = typer_testing.CliRunner().invoke(app, ["study", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", train=2, test=1)
    code, said, _ = run(
        data, "-o", tmp_path / "out", "--methods", "rrr, resnet18", "--seeds", "0,1", "--dry-run", "--json"
    )
    assert code == 0
    document = json.loads(said)
    assert document["to_do"] == 4
    assert [method["name"] for method in document["plan"]["methods"]] == ["rrr", "resnet18"]
    _, said, _ = run(data, "-o", tmp_path / "out", "--methods", "rrr", "--seeds", "0", "--dry-run")
    assert said.strip() == "1 data set x 1 method x 1 seed: 1 cell, 1 to do"
    assert not (tmp_path / "out").exists()


def test_a_dry_run_changes_no_file_whatever_else_is_said(tmp_path: Path) -> None:
    data, out = write_shapes(tmp_path / "shapes", train=2, test=1), tmp_path / "out"
    asked = (data, "-o", out, "--methods", "linear-probe", "--seeds", "0", "--dry-run", "--json")
    plan = Plan.model_validate(json.loads(run(*asked)[1])["plan"])
    StudyFolder(out).write_plan(plan)
    StudyFolder(out).write_record(make_record(plan.cells[0], 0.2))
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    (data / "train" / "circle" / "0.png").unlink()
    assert run(*asked)[0] == 2
    code, said, _ = run(*asked, "--force")
    assert (code, json.loads(said)["to_do"]) == (0, 1)
    assert {file: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_one_more_method_or_seed_leaves_what_is_finished(tmp_path: Path) -> None:
    data, study = write_shapes(tmp_path / "shapes", train=2, test=1), StudyFolder(tmp_path / "out")

    def asked(methods: str, seeds: str) -> dict[str, Any]:
        _, said, _ = run(data, "-o", study.path, "--methods", methods, "--seeds", seeds, "--dry-run", "--json")
        found: dict[str, Any] = json.loads(said)
        return found

    first = Plan.model_validate(asked("rrr,finetune", "0")["plan"])
    study.write_plan(first)
    for cell in first.cells:
        study.write_record(make_record(cell, 0.2))
    assert [asked("rrr,finetune", seeds)["to_do"] for seeds in ("0", "0,1")] == [0, 2]
    assert asked("rrr,resnet18,finetune", "0")["to_do"] == 1


def test_another_bundle_to_begin_with_is_noticed(tmp_path: Path) -> None:
    data, made = write_shapes(tmp_path / "shapes", train=1, test=1), write_bundle(tmp_path / "made.rrr")
    (tmp_path / "slim.toml").write_text(f'method = "channel"\nfrom = "{made.path}"\n')
    _, said, _ = run(data, "-o", tmp_path / "out", "--methods", tmp_path / "slim.toml", "--dry-run", "--json")
    assert Plan.model_validate(json.loads(said)["plan"]).cells[0].weights_sha256 == sha256(made.weights)


def test_other_weights_under_the_same_name_are_noticed(tmp_path: Path) -> None:
    data, weights = write_shapes(tmp_path / "shapes", train=1, test=1), tmp_path / "mine.pth"
    plans = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        _, said, _ = run(data, "-o", tmp_path / "out", "--methods", "rrr", "--weights", weights, "--dry-run", "--json")
        plans.append(Plan.model_validate(json.loads(said)["plan"]))
    (one, *_), (two, *_) = (plan.cells for plan in plans)
    assert one.differs(two) == "weights"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--methods", "rr"), 2, "Did you mean 'rrr'?"),
        (("--methods", "rrr,rrr"), 2, "more than once"),
        (("--seeds", "0,x"), 2, "different whole numbers"),
        (("--precision", "int8"), 2, "Add --target"),
        (("--workers", "9999"), 2, "workers cannot share"),
        (("--methods", "finetune", "--branches", "2"), 2, "None of these methods has --branches"),
        (("--methods", "missing.toml"), 2, "There is no recipe file"),
        (("--preset", "papers"), 2, "Did you mean 'paper'?"),
        (("--preset", "paper", "--methods", "rrr"), 2, "names its methods itself"),
        (("--report",), 2, "reads STUDY alone"),
        (("--methods", "mobilenet_v2+basis"), 2, "cannot go on from the network mobilenet_v2"),
        (("--methods", "element+basis"), 2, "would not stay zero"),
        (("--methods", "basis+basis"), 2, "cannot go on from the pairs"),
        (("--weights", "/nothing.pth"), 2, "There is no file of weights /nothing.pth"),
        (("--target", "openvino", "--max-drop", "7"), 2, "between 0 and 1"),
        (("--target", "onnxruntime", "--precision", "int8"), 4, "runs fp32"),
        (("--seeds", "9" * 20), 2, "different whole numbers"),
        (("--preset", "paper", "--fit", "foo"), 2, "--fit: "),
        (("--preset", "paper", "--image-size", "7"), 2, "--image-size: "),
        (("--preset", "figure4", "--epochs", "-1"), 2, "--epochs: "),
        (("--preset", "figure5", "--branches", "4"), 2, "--branches is what the preset figure5 varies"),
    ],
)
def test_mistakes_are_sentences(options: tuple[str, ...], code: int, words: str, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", train=1, test=1)
    found, _, said = run(data, "-o", tmp_path / "out", *options)
    assert found == code
    assert words in said
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    assert run(tmp_path / "no", "-o", tmp_path / "out")[0] == 5


def test_the_report_alone_needs_a_study(tmp_path: Path) -> None:
    code, _, said = run("-o", tmp_path, "--report")
    assert code == 5
    assert "is not a study" in said
    assert run("-o", tmp_path, "--report", "--seeds", "1")[0] == 2
    assert run("-o", tmp_path, "--report", "-t", "openvino", "--precision", "fp8")[0] == 2
    assert run("-o", tmp_path / "out")[0] == 2


def test_presets_are_as_published_but_for_what_is_said(tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "shapes", train=1, test=1)
    code, said, _ = run(data, "-o", tmp_path / "out", "--preset", "paper", "--epochs", "3", "--dry-run", "--json")
    assert code == 0
    plan = json.loads(said)["plan"]
    assert [method["name"] for method in plan["methods"]] == list("ABCDE")
    assert plan["seeds"] == [21, 31, 51]
    assert {method["recipes"][0]["training"]["epochs"] for method in plan["methods"]} == {3}
    (recipe,) = plan["methods"][4]["recipes"]
    assert (recipe["branches"], recipe["split"], recipe["weights"]) == (8, "paper", "timm")
    code, said, _ = run(data, "-o", tmp_path / "out", "--preset", "figure5", "--seeds", "0", "--dry-run", "--json")
    branches = [method["recipes"][0]["branches"] for method in json.loads(said)["plan"]["methods"]]
    assert branches == [2**power for power in range(8)]
    assert run(data, "-o", tmp_path / "out", "--preset", "figure4", "--dry-run")[0] == 0
