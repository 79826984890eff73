"""The command line as its users meet it: exit codes, one JSON document, and sentences worth reading."""

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
import torch
import typer
from fake_bundle import rewrite, write_engine
from made_up import make_bundle, store
from made_up import profile as made_up_profile
from PIL import Image
from small_bundle import LABELS, flip_a_byte, link_bundle, write_shapes
from typer.testing import CliRunner

from rrr_edge import __version__
from rrr_edge.bundle.folder import Bundle
from rrr_edge.bundle.recipe import METHODS, Selection, Training
from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.target import Target, target_names
from rrr_edge.cli.app import app
from rrr_edge.errors import Interrupted, pip_install
from rrr_edge.runtime.classifier import Classifier
from rrr_edge.timing.interleave import TimingSettings

COMMANDS = (
    "compress",
    "compile",
    "profile",
    "report",
    "gate",
    "predict",
    "evaluate",
    "calibrate",
    "targets",
    "demo",
    "doctor",
    "verify",
    "watch",
    "tasks",
)


class Result:
    def __init__(self, result: Any) -> None:
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code, self.stdout, self.stderr = result.exit_code, result.stdout, result.stderr

    @property
    def document(self) -> Any:
        return json.loads(self.stdout)


def run(*arguments: str | Path, env: dict[str, str] | None = None) -> Result:
    return Result(CliRunner().invoke(app, [str(argument) for argument in arguments], env=env))


# What every command has


def test_help_is_quick_and_imports_no_heavy_library() -> None:
    code = (
        "import sys, time; start = time.perf_counter()\n"
        "from rrr_edge.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'numpy', 'pydantic', 'torch', 'openvino', 'PIL', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert time.perf_counter() - start < 3"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)


def parameters_of(command: Any) -> list[Any]:
    return [each for each in command.get_params(typer.Context(command)) if each.name != "help"]


def test_every_command_has_help_json_quiet_and_verbose() -> None:
    commands, listed = typer.main.get_command(app), run("--help").stdout
    assert set(commands.commands) >= set(COMMANDS)
    for name, command in commands.commands.items():
        parameters = parameters_of(command)
        assert {"--json", "-q", "-v"} <= {option for parameter in parameters for option in parameter.opts}, name
        helped = run(name, "--help")
        assert helped.code == 0
        assert "Usage" in helped.stdout
        assert f"RRR_EDGE_{name.upper()}_JSON=1" in helped.stdout
        assert command.help
        assert all(parameter.help for parameter in parameters), name
        assert len(command.help.partition(". ")[0].rstrip(".")) < 64, f"{name}: it must fit into 80 columns"
        assert f"  {name} " in listed


def test_the_version_is_printed() -> None:
    assert run("--version").stdout.strip() == __version__


def test_a_bug_of_ours_is_a_traceback_and_exit_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrr_edge.bundle.target.target_names", lambda: 1 / 0)
    result = CliRunner().invoke(app, ["targets"])
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("command", "place", "stop", "code", "advice"),
    [
        ("doctor {bundle}", "rrr_edge.runtime.doctor.examine", KeyboardInterrupt(), 130, "Run it again."),
        ("doctor {bundle}", "rrr_edge.runtime.doctor.examine", SystemExit(143), 143, "Run it again."),
        ("compress {tmp} -o {tmp}/x", "rrr_edge.compress.compress", KeyboardInterrupt(), 130, "Go on with --resume."),
        (
            "compress {tmp} -o {tmp}/y",
            "rrr_edge.compress.compress",
            SystemExit(143),
            143,
            "Run it again: nothing was kept.",
        ),
        (
            "demo -o {tmp}/demo",
            "rrr_edge.cli.walkthrough.run_demo",
            Interrupted("At 3."),
            130,
            "Start it anew with --force.",
        ),
    ],
)
def test_an_interruption_tells_how_this_command_goes_on(
    compiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, place: str, stop: BaseException,
    code: int, advice: str,
) -> None:  # fmt: skip
    def stopped(*_: object, **__: object) -> None:
        raise stop

    (tmp_path / ".x.work").mkdir()
    monkeypatch.setattr(place, stopped)
    result = run(*command.format(bundle=compiled.path, tmp=tmp_path).split(), "--json")
    assert result.code == code
    assert result.document["advice"] == advice
    assert result.document["exit_code"] == code


@pytest.mark.parametrize("pruned", [True, False])
def test_that_nothing_was_pruned_is_in_the_result(
    compiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pruned: bool
) -> None:
    notes = ("Basis scaling.",) if pruned else ("Nothing was pruned. Basis scaling.",)
    provenance = compiled.manifest.provenance.model_copy(update={"notes": notes})
    made = replace(compiled, manifest=compiled.manifest.model_copy(update={"provenance": provenance}))
    monkeypatch.setattr("rrr_edge.compress.compress", lambda *_, **__: made)
    assert ("; nothing was pruned" in run("compress", tmp_path, "-o", tmp_path / "x").stdout) != pruned


@pytest.mark.parametrize(
    ("arguments", "said", "see"),
    [
        ("compress --epoch 3", "No such option: --epoch", "compress --help"),
        ("compile", "Missing argument 'BUNDLE'.", "compile --help"),
        ("compile x", "Missing option '--target'", "compile --help"),
        ("complie x", "No such command 'complie'.", "--help"),
        ("profile x -t y --runs many", "Invalid value for '--runs'", "profile --help"),
        ("report x --markdown", "Option '--markdown' requires an argument.", "report --help"),
    ],
)
def test_arguments_that_make_no_sense_end_like_every_other_mistake(arguments: str, said: str, see: str) -> None:
    command, *words = arguments.split()
    result = run(command, "--json", *words)
    assert result.code == result.document["exit_code"] == 2
    assert result.document["error"].startswith(said)
    assert result.document["error"][-1] in ".?"
    assert result.document["advice"].endswith(see)
    plain = run(*arguments.split())
    assert (plain.code, plain.stdout) == (2, "")
    assert plain.stderr == f"error: {result.document['error']}\n       {result.document['advice']}\n"


def test_a_mistake_in_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RRR_EDGE_COMPRESS_EPOCHS", "abc")
    result = run("compress", "photos", "-o", "x.rrr", "--json")
    assert result.code == 2
    assert "RRR_EDGE_COMPRESS_EPOCHS" in result.document["error"]


def test_no_arguments_are_answered_by_the_help() -> None:
    assert "Usage" in run().stdout
    assert run().code == 2


# Settings


@pytest.fixture(autouse=True)
def _plans_try_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of a training for every plan would take longer than all else; test_estimate.py tries some."""
    monkeypatch.setattr("rrr_edge.compress._estimate", lambda *_: None)


SMALL = ("--weights", "random", "--image-size", "32", "--dry-run", "--json")


def plan(shapes: Path, tmp_path: Path, *arguments: str | Path, env: dict[str, str] | None = None) -> Any:
    result = run("compress", shapes, "-o", tmp_path / "x.rrr", *SMALL, *arguments, env=env)
    assert result.code == 0, result.stderr
    return result.document


def test_option_before_environment_before_file_before_default(shapes: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("branches = 3\n[training]\nepochs = 7\nbatch_size = 5\n")
    env = {"RRR_EDGE_COMPRESS_EPOCHS": "8", "RRR_EDGE_COMPRESS_BRANCHES": "4"}

    def settings(*arguments: str | Path, env: dict[str, str] | None = None) -> tuple[int, int, int]:
        made = plan(shapes, tmp_path, *arguments, env=env)["recipe"]
        return made["training"]["epochs"], made["branches"], made["training"]["batch_size"]

    assert settings() == (300, 8, 32)
    assert settings("--recipe", recipe) == (7, 3, 5)
    assert settings("--recipe", recipe, env=env) == (8, 4, 5)
    assert settings("--recipe", recipe, "--epochs", "9", env=env) == (9, 4, 5)


def test_every_option_has_a_variable_of_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, command in typer.main.get_command(app).commands.items():
        for option in parameters_of(command):
            if option.param_type_name == "option":
                long = max(option.opts, key=len)
                assert option.envvar == f"RRR_EDGE_{name}_{long[2:]}".upper().replace("-", "_")
    assert isinstance(run("targets", env={"RRR_EDGE_TARGETS_JSON": "1"}).document, list)


def test_every_setting_of_a_recipe_is_an_option_with_the_recipes_own_default() -> None:
    command = typer.main.get_command(app).commands["compress"]
    helps = {parameter.name: parameter.help for parameter in parameters_of(command)}
    seen = 0
    for method, recipe in METHODS.items():
        fields = {name: field for name, field in recipe.model_fields.items() if name not in ("method", "training")}
        for name, field in {**fields, **Training.model_fields, **Selection.model_fields}.items():
            if name in ("schedule", "selection"):
                continue
            assert field.description, name
            assert field.description[1:] in helps[name], name
            if isinstance(field.default, int | float | str) and not isinstance(field.default, bool):
                value = f"{field.default:g}" if field.default == 0 else field.default
                assert f"(default: {value})" in helps[name], name
            for choice in get_args(field.annotation) if get_origin(field.annotation) is Literal else ():
                assert choice in next(p.metavar for p in parameters_of(command) if p.name == name)
            seen += 1
        assert method in next(p.metavar for p in parameters_of(command) if p.name == "method")
    assert seen > 60


def test_settings_reach_the_recipe_by_option_and_by_environment(shapes: Path, tmp_path: Path) -> None:
    made = plan(shapes, tmp_path, "--batch-size", "7", "--no-augment", env={"RRR_EDGE_COMPRESS_WEIGHT_DECAY": "0.5"})
    training = made["recipe"]["training"]
    assert (training["batch_size"], training["augment"], training["weight_decay"]) == (7, False, 0.5)


def test_a_file_of_weights_is_told_by_its_name(shapes: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.ckpt"
    shapes_of = SOURCES["resnet50"].shapes() | {"fc.weight": (7, 2048)}
    tensors = {f"net.{name}": torch.zeros(()).expand(shape) for name, shape in shapes_of.items()}
    torch.save({"state_dict": tensors}, own)
    compress = ("compress", shapes, "-o", tmp_path / "x.rrr", *SMALL, "--weights", own)
    refused = run(*compress)
    assert refused.code == 5
    assert refused.document["error"] == f"{own} holds the weights of a ResNet50, and a ResNet152 is asked for."
    assert "--backbone resnet50" in refused.document["advice"]
    taken = run(*compress, "--backbone", "resnet50", "--depths", "auto")
    said = f"{own} holds a ResNet50 for 7 classes, in torchvision's names after `state_dict.net.`, float32."
    assert taken.document["weights"] == said
    assert said in taken.stderr
    assert taken.document["recipe"]["backbone"] == "resnet50"
    assert "up to 13 steps" in run(*compress[:-3], *compress[-2:], "--backbone", "resnet50", "--depths", "auto").stdout
    assert not (tmp_path / "x.rrr").exists()


def test_a_dry_run_writes_nothing(shapes: Path, compiled: Bundle, tmp_path: Path) -> None:
    planned = plan(shapes, tmp_path)
    assert planned["photos"] == {"train": 33, "val": 3, "test": 24}
    assert planned["classes"] == 3
    compress = ("compress", shapes, "-o", tmp_path / "x.rrr", *SMALL[:-1])
    words = r"x.rrr would have [\d,]{7,} parameters and \d+ million MACs"
    assert re.search(f"{words}; 300 epochs on 33 photos", run(*compress).stdout)
    selecting = run(*compress, "--depths", "auto", "--max-additions", "3", "--epochs-per-step", "9").stdout
    assert re.search(f"{words} to begin with; 9 epochs for each of up to 4 steps on 30 photos", selecting)
    assert not list(tmp_path.iterdir())
    bundle = link_bundle(compiled, tmp_path)
    before = sorted(bundle.path.rglob("*"))
    result = run("compile", bundle.path, "-t", "openvino", "--dry-run", "--json")
    assert result.code == 0
    assert result.document["engine"] == str(bundle.engine_folder("openvino-int8"))
    assert not result.document["replaces"]
    assert sorted(bundle.path.rglob("*")) == before


def test_a_dry_run_of_profile_says_what_it_would_time(compiled: Bundle) -> None:
    bundle = compiled
    before = sorted(bundle.path.rglob("*"))
    profile = ("profile", bundle.path, "-t", "openvino", "--dry-run")
    alone = run(*profile, "--json", "--against", "none", "--no-anatomy", "--runs", "50").document
    assert alone["measures"] == ["engine", "Classifier.predict", "photo to answer"]
    assert (alone["runs"], alone["replaces"]) == (50, "openvino-int8" in bundle.profile_names())
    assert alone["seconds_at_least"] >= 3 * 0.2  # three warm-ups
    options = ("--against", "baseline,block", "--sparsity", "0,0.5", "--batches", "4", "--cold-start")
    more = run(*profile, "--json", *options).document
    assert set(alone["measures"]) | {"ResNet152, openvino fp32", "batch of 4", "cold starts"} <= set(more["measures"])
    assert sum(what.startswith("block 50 %, ") for what in more["measures"]) == 3  # PyTorch, FP32, INT8
    assert more["seconds_at_least"] > alone["seconds_at_least"]
    assert f" {bundle.profile_folder('openvino-int8')}\n200 runs of each, " in run(*profile).stdout
    assert sorted(bundle.path.rglob("*")) == before


def test_what_the_scan_found_is_told_before_the_training(tmp_path: Path) -> None:
    photos = write_shapes(tmp_path / "photos", train=4, test=2)
    (photos / "train" / "circle" / "half.png").write_bytes(b"")
    shutil.copy(photos / "train" / "cross" / "0.png", photos / "test" / "cross" / "same.png")
    result = run("compress", photos, "-o", tmp_path / "x.rrr", *SMALL, "--max-bad", "0.1", "--validation-share", "0")
    assert result.code == 0
    assert "3 classes; photos: 12 train, 7 test; 4 to 4 of a class in train" in result.stderr
    assert "warning: train/circle/half.png is skipped: it is empty" in result.stderr
    assert (
        "warning: duplicates: 1 among the test photos, such as test/cross/same.png = train/cross/0.png" in result.stderr
    )


@pytest.mark.parametrize("share", ["-0.1", "1.1", "nan"])
def test_a_share_of_bad_photos_is_a_share(shapes: Path, tmp_path: Path, share: str) -> None:
    assert run("compress", shapes, "-o", tmp_path / "x.rrr", *SMALL, "--max-bad", share).code == 2


# Refusals: the code, the sentence, and the advice


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ("compile {bundle} -t openvno", 2, "There is no target 'openvno'. Did you mean 'openvino'?"),
        ("compile {bundle} -t openvino --precision int9", 2, "There is no precision 'int9'. Did you mean 'int8'?"),
        ("compile {bundle} -t onnxruntime --precision int8", 4, "The onnxruntime backend runs fp32; int8 was asked."),
        ("compile {bundle} -t openvino --lowering dens", 2, "There is no lowering 'dens'. Did you mean 'dense'?"),
        ("compile {bundle} -t openvino --prepare-only", 2, "The openvino backend takes the bundle's own graph"),
        ("compile {bundle} -t tensorrt --prepare-only --lowering auto", 2, "Prepare one of them with --lowering"),
        ("compile {bundle} -t openvino --prepare-only --dry-run", 2, "takes the bundle's own graph"),
        ("compile {bundle} -t tensorrt --prepare-only --lowering auto --dry-run", 2, "Prepare one of them"),
        ("compile {bundle} -t openvino --precision fp32 --calib-data digits", 2, "Nothing reads --calib-data for fp32"),
        ("compile {bundle} -t openvino --precision bf16 --calib-data {tmp}/absent", 2, "Leave it out"),
        ("compile {bundle} -t openvino --calib-data digts --dry-run", 2, "Did you mean 'digits'?"),
        ("compile {bundle} -t openvino --max-drop nan", 2, "a share between 0 and 1"),
        ("compile {bundle} -t openvino --max-drop 5 --dry-run", 2, "a share between 0 and 1, such as 0.01, not 5"),
        ("compile {bundle} -t openvino --calib-data digts", 2, "Did you mean 'digits'?"),
        ("compile {tmp}/absent.rrr -t openvino", 5, "There is no bundle {tmp}/absent.rrr."),
        ("compile {shapes} -t openvino", 5, "{shapes} is not a bundle: it has no manifest.json."),
        ("predict {bundle} {photo} -t xeon-gold-6126 --precision int8", 2, "has no xeon-gold-6126-int8 engine"),
        ("predict {bundle} {tmp}/absent.png", 5, "{tmp}/absent.png cannot be read: there is no such file."),
        ("predict {tmp}/absent.rrr {photo}", 5, "There is no bundle {tmp}/absent.rrr."),
        ("predict {bundle} {tmp}", 2, "There is no image in {tmp}."),
        ("doctor {tmp}", 5, "{tmp} is not a bundle: it has no manifest.json."),
        ("profile {bundle} -t openvino --against basline", 2, "Did you mean 'baseline'?"),
        ("profile {bundle} -t openvino --precision fp16", 2, "has no openvino-fp16 engine"),
        ("profile {bundle} -t openvino --clean --prepare", 2, "--prepare means nothing with --clean."),
        ("profile {bundle} -t openvino --clean --runs 50", 2, "--runs means nothing with --clean."),
        ("profile {bundle} -t openvino --prepare --pace 25", 2, "--pace means nothing with --prepare."),
        ("profile {bundle} -t openvino --prepare --batches 1,2", 2, "--batches means nothing with --prepare."),
        ("profile {bundle} -t openvino --prepare --no-anatomy", 2, "--anatomy means nothing with --prepare."),
        ("profile {bundle} -t openvino --dry-run --precision fp16", 2, "has no openvino-fp16 engine"),
        ("report {bundle} -o {tmp}/x.html", 2, "{bundle} has not been profiled. Run: rrr-edge profile {bundle}"),
        ("report {tmp}/absent.rrr -o {tmp}/x.html", 5, "There is no bundle {tmp}/absent.rrr."),
        ("compress {tmp}/absent -o {tmp}/x.rrr", 5, "There is no folder {tmp}/absent."),
        ("compress {shapes} -o {tmp}/x.rrr --method rr", 2, "There is no method 'rr'. Did you mean 'rrr'?"),
        ("compress {shapes} -o {tmp}/x.rrr --device cud", 2, "There is no device 'cud'. Did you mean 'cuda'?"),
        ("compress {shapes} -o {tmp}/x.rrr --weights imagnet --image-size 32", 2, "Did you mean 'imagenet'?"),
        ("compress {shapes} -o {tmp}/x.rrr --depths 1,1,1", 2, "depths"),
        ("compress {shapes} -o {tmp}/x.rrr --depths one", 2, "--depths takes four numbers such as 1,1,1,1"),
        ("compress {shapes} -o {tmp}/x.rrr --depths 1,1,1,4", 2, "conv5_x keeps 4 blocks, but ResNet152 has 1 to 3"),
        ("compress {shapes} -o {tmp}/x.rrr --epochs -1", 2, "epochs: input should be greater than or equal to 0"),
        ("compress {shapes} -o {tmp}/x.rrr --recipe {tmp}/absent.toml", 5, "absent.toml cannot be read as TOML"),
        ("compress {shapes} -o {bundle} --image-size 32 --weights random", 2, "{bundle} exists."),
    ],
)
def test_a_refusal_is_a_sentence_an_advice_an_exit_code_and_one_document(
    shapes: Path, compiled: Bundle, tmp_path: Path, arguments: str, code: int, said: str
) -> None:
    places = {"bundle": compiled.path, "shapes": shapes, "tmp": tmp_path, "photo": shapes / "test/cross/0.png"}
    result = run(*arguments.format(**places).split(), "--json")
    assert result.code == code, result.stderr
    assert said.format(**places) in f"{result.document['error']} {result.document['advice']}"
    assert result.document["exit_code"] == code
    assert f"error: {result.document['error']}" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.document["error"][-1] in ".?"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("target", "module", "library"),
    [("tensorrt", "tensorrt", "TensorRT"), ("tensorrt-rtx", "tensorrt_rtx", "TensorRT for RTX")],
)
def test_without_tensorrt_the_graph_is_prepared_and_kept_and_then_comes_exit_6(
    compiled: Bundle, tmp_path: Path, target: str, module: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    bundle = link_bundle(compiled, tmp_path)
    result = run("compile", bundle.path, "-t", target, "--precision", "fp32", "--json")
    assert result.code == 6
    folder = bundle.engine_folder(f"{target}-fp32")
    missing = f"The {target} backend needs {library}, which is not installed."
    assert result.document["error"] == f"{missing} The prepared graph is kept in {folder}."
    assert result.document["advice"] == pip_install(target)
    assert (folder / "prepared.onnx").is_file()
    found = run("doctor", bundle.path, "--json")
    (row,) = (row for row in found.document if row["what"] == folder.name)
    assert (found.code, row["verdict"]) == (0, "prepared")
    assert row["repair"] == f"rrr-edge compile {bundle.path} --target {target} --precision fp32"


def test_a_missing_library_is_its_pip_line_and_exit_6(
    shapes: Path, tmp_path: Path, compiled: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    result = run("compile", link_bundle(compiled, tmp_path).path, "-t", "openvino", "--json")
    assert result.code == 6
    assert result.document["error"] == "The openvino backend needs openvino, which is not installed."
    assert result.document["advice"] == pip_install("openvino")


def test_without_torch_compress_says_what_to_install(shapes: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from rrr_edge.cli.app import main; main()"
    command = [sys.executable, "-c", code, "compress", str(shapes), "-o", str(tmp_path / "x.rrr"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert pip_install("compress") in done.stderr
    assert json.loads(done.stdout)["exit_code"] == 6


def test_verbose_tells_versions_and_settings(shapes: Path, tmp_path: Path) -> None:
    arguments = ("compress", shapes, "-o", tmp_path / "x.rrr", *SMALL)
    assert "image_size" not in run(*arguments).stderr
    said = run(*arguments, "-v", env={"RRR_EDGE_COMPRESS_SEED": "7"}).stderr
    assert f"rrr-edge {__version__}, Python {platform.python_version()}, numpy {np.__version__}" in said
    assert "image_size=32" in said
    (recipe,) = [line.removeprefix("recipe: ") for line in said.splitlines() if line.startswith("recipe: ")]
    assert json.loads(recipe)["seed"] == 7


def test_verbose_names_the_cause(tmp_path: Path) -> None:
    (tmp_path / "x.rrr").mkdir()
    (tmp_path / "x.rrr" / "manifest.json").write_text("{")
    assert "caused by" not in run("doctor", tmp_path / "x.rrr").stderr
    assert "caused by JSONDecodeError" in run("doctor", tmp_path / "x.rrr", "-v").stderr


def test_compress_names_a_folder_that_is_not_there_before_anything_else(tmp_path: Path) -> None:
    result = run("compress", tmp_path / "nowhere", "-o", tmp_path / "x.rrr", "--resume")
    assert result.code == 5
    assert result.stderr.splitlines()[0] == f"error: There is no folder {tmp_path / 'nowhere'}."


def test_resuming_what_was_never_begun_is_said(shapes: Path, tmp_path: Path) -> None:
    command = ("compress", shapes, "-o", tmp_path / "x.rrr", "--weights", "random", "--image-size", "32", "--dry-run")
    said = f"note: There is no interrupted run for {tmp_path / 'x.rrr'}: this one begins."
    assert said in run(*command, "--resume").stderr.splitlines()
    assert "no interrupted run" not in run(*command).stderr


def test_force_warns_of_the_engines_that_go_too(compiled: Bundle, tmp_path: Path) -> None:
    result = run("compress", tmp_path / "absent", "-o", compiled.path, "--force")
    assert result.code == 5
    engines = "onnxruntime-fp32, openvino-fp32, openvino-int8"
    assert f"warning: when {compiled.path} is replaced, its engines ({engines}) and profiles go" in result.stderr


# compile


def test_compile_says_what_it_built_and_proved(compiled: Bundle, tmp_path: Path) -> None:
    bundle = link_bundle(compiled, tmp_path)
    result = run("compile", bundle.path, "-t", "openvino", "--precision", "fp32")
    assert result.code == 0
    assert "engines/openvino-fp32" in result.stdout
    assert "(replaced)" not in result.stdout
    assert "warning" not in result.stderr
    assert "100.0% fp32" in result.stdout
    assert "verified on 24 images: top-1 agrees on 100.00%" in result.stdout
    again = run("compile", bundle.path, "-t", "onnxruntime", "--json", "-q")
    assert again.document == json.loads((bundle.engine_folder("onnxruntime-fp32") / "engine.json").read_text())
    assert again.stderr == ""
    assert "onnxruntime-fp32 (replaced): " in run("compile", bundle.path, "-t", "onnxruntime").stdout


def test_prepare_only_makes_the_graph_and_proves_it(compiled: Bundle, tmp_path: Path) -> None:
    bundle = link_bundle(compiled, tmp_path)
    result = run("compile", bundle.path, "-t", "tensorrt", "--precision", "fp32", "--prepare-only")
    assert result.code == 0
    assert "engines/tensorrt-fp32: a graph, not yet an engine, " in result.stdout
    prepare = ("compile", bundle.path, "-t", "tensorrt", "--precision", "fp32", "--prepare-only")
    assert run(*prepare, "--dry-run", "--json").document["replaces"]
    assert "engines/tensorrt-fp32 (replaced): " in run(*prepare).stdout
    assert "verified on 24 images: top-1 agrees on 100.00%" in result.stdout
    again = run("compile", bundle.path, "-t", "tensorrt", "--precision", "fp32", "--prepare-only", "--json")
    assert again.document == json.loads((bundle.engine_folder("tensorrt-fp32") / "prepared.json").read_text())
    assert run("compile", bundle.path, "-t", "tensorrt", "--prepare-only", "--dry-run").code == 0


def test_an_engine_beside_a_prepared_graph_is_not_called_replaced(compiled: Bundle, tmp_path: Path) -> None:
    bundle = link_bundle(compiled, tmp_path)
    write_engine(bundle, Target.load("tensorrt").model_copy(update={"precision": "fp32"}), ("engine.plan", b"x"))
    prepare = ("compile", bundle.path, "-t", "tensorrt", "--precision", "fp32", "--prepare-only")
    assert not run(*prepare, "--dry-run", "--json").document["replaces"]
    assert "(replaced)" not in run(*prepare).stdout
    assert (bundle.engine_folder("tensorrt-fp32") / "engine.plan").is_file()


def test_compile_names_the_command_that_may_find_a_faster_engine(
    compiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = link_bundle(compiled, tmp_path)
    command = ("compile", bundle.path, "-t", "openvino", "--precision", "fp32")
    for may_be in (True, False):
        monkeypatch.setattr("rrr_edge.compile.may_be_faster_split", lambda *_, may_be=may_be: may_be)
        advice = f"rrr-edge compile {bundle.path} --target openvino --precision fp32 --lowering auto"
        assert (advice in " ".join(run(*command).stderr.split())) == may_be
        assert "--lowering auto" not in run(*command, "--lowering", "grouped").stderr


def test_auto_tells_the_times_that_decided(compiled: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rrr_edge.compile.fastest.TIMING", TimingSettings(runs=5, warm_up_ms=1, settle_runs=1))
    bundle = link_bundle(compiled, tmp_path)
    result = run("compile", bundle.path, "-t", "onnxruntime", "--lowering", "auto")
    assert result.code == 0
    for name in ("split", "dense"):
        assert re.search(rf"{name} takes \d\.\d+ of grouped's time \(95% interval [\d.]+ to [\d.]+\)", result.stderr)


# report


def test_report_writes_a_page_and_markdown_and_says_the_verdict(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "mugs.rrr")
    store(bundle, made_up_profile(bundle))
    files = tmp_path / "report.html", tmp_path / "report.md"
    result = run("report", bundle.path, "-o", files[0], "--markdown", files[1], "--json")
    assert result.code == 0, result.stderr
    assert result.document["files"] == list(map(str, files))
    assert result.document["verdict"].startswith("mugs answers one image in 0.8")
    assert all(result.document["verdict"] in file.read_text() for file in files)
    assert run("report", bundle.path, "-o", files[0]).stdout.startswith(result.document["verdict"])


# predict


@pytest.fixture
def photos(shapes: Path, tmp_path: Path) -> Path:
    """Six good photos, a corrupt one, and a file that is none."""
    folder = tmp_path / "photos"
    for label in LABELS:
        for i in range(2):
            folder.mkdir(exist_ok=True)
            shutil.copy(shapes / "test" / label / f"{i}.png", folder / f"{label}{i}.png")
    (folder / "half.png").write_bytes((folder / "cross0.png").read_bytes()[:200])
    (folder / "notes.txt").write_text("not a photo")
    return folder


def test_predict_answers_what_the_classifier_answers(compiled: Bundle, photos: Path) -> None:
    result = run("predict", compiled.path, photos, photos / "cross0.png", "--json")
    assert result.code == 0
    rows = result.document["predictions"]
    assert [Path(row["image"]).name for row in rows] == [
        *(f"{label}{i}.png" for label in LABELS for i in (0, 1)),
        "cross0.png",
    ]
    with Classifier.open(compiled.path) as classifier:
        for row in rows:
            answer = classifier.predict(row["image"])
            assert (row["label"], row["index"]) == (answer.label, answer.index)
            assert row["probability"] == pytest.approx(answer.probability, abs=1e-6)
            assert row["uncertainty"] == pytest.approx(answer.uncertainty, abs=1e-6)


def test_predict_looks_at_a_region(compiled: Bundle, photos: Path, tmp_path: Path) -> None:
    with Image.open(photos / "cross0.png") as photo:
        framed = Image.new("RGB", (photo.width * 2, photo.height * 2), "blue")
        framed.paste(photo, (photo.width, 0))
    framed.save(tmp_path / "framed.png")
    whole, part = (
        run("predict", compiled.path, *arguments, "--json").document["predictions"][0]
        for arguments in ((photos / "cross0.png",), (tmp_path / "framed.png", "--roi", "0.5,0,0.5,0.5"))
    )
    assert part == whole | {"image": part["image"]}
    refused = run("predict", compiled.path, photos, "--roi", "0,0,640,480", "--json")
    assert refused.code == 2
    assert refused.document["error"] == "The region 0, 0, 640, 480 is not inside the frame."


def test_one_corrupt_photo_among_good_ones_is_named_and_passed_over(compiled: Bundle, photos: Path) -> None:
    (photos / "raw.cr2").touch()
    result = run("predict", compiled.path, photos)
    assert result.code == 0
    assert "warning: Files passed over for their unknown endings: 1, such as raw.cr2." in result.stderr
    assert f"warning: {photos / 'half.png'} cannot be read" in result.stderr
    assert "notes.txt" not in result.stderr + result.stdout
    lines = [line.split() for line in result.stdout.splitlines() if ".png" in line]
    assert len(lines) == 6
    assert all(line[1] in LABELS and 0 <= float(line[3]) <= 1 for line in lines)
    (bad,) = run("predict", compiled.path, photos, "--json").document["unreadable"]
    assert bad["image"] == str(photos / "half.png")


def test_a_corrupt_photo_that_was_asked_for_is_exit_5_after_the_others(compiled: Bundle, photos: Path) -> None:
    result = run("predict", compiled.path, photos / "half.png", photos / "cross0.png", "--json")
    assert result.code == 5
    assert [row["image"] for row in result.document["predictions"]] == [str(photos / "cross0.png")]


def test_nothing_but_corrupt_photos_is_exit_5(compiled: Bundle, photos: Path) -> None:
    shutil.copy(photos / "half.png", photos / "other.png")
    both = run("predict", compiled.path, photos / "half.png", photos / "other.png", "--json")
    assert both.code == 5
    assert both.document["predictions"] == []
    assert len(both.document["unreadable"]) == 2
    one = run("predict", compiled.path, photos / "half.png", "--json")
    assert one.code == 5
    assert "half.png cannot be read" in one.document["error"]


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_predict_takes_any_compiled_engine(compiled: Bundle, photos: Path, target: str) -> None:
    result = run("predict", compiled.path, photos / "cross0.png", "-t", target, "--json")
    assert result.document["predictions"][0]["label"] in LABELS
    assert result.document["engine"] in compiled.engine_names()
    assert result.document["engine"].startswith(target)
    assert result.stderr == f"engine: {result.document['engine']}\n"


# The gate


@pytest.mark.parametrize(
    ("limits", "verdict", "code"),
    [
        (["--max-slowdown", "1000"], "pass", 0),
        (["--max-slowdown", "0.001"], "fail", 3),
        (["--budget-s", "0"], "undecided", 3),
    ],
)
def test_the_gate_lets_through_what_it_should(
    compiled: Bundle, tmp_path: Path, limits: list[str], verdict: str, code: int
) -> None:
    sides = ("--baseline", f"{compiled.path}:fp32", "--candidate", f"{compiled.path}:int8")
    note = tmp_path / "verdict.md"
    result = run("gate", *sides, "-t", "openvino", "--max-drop", "1", *limits, "--markdown", note, "--json")
    assert result.code == code
    assert result.document["verdict"] == verdict
    assert note.read_text().startswith(f"### rrr-edge gate: {verdict}")


def test_a_dry_gate_refuses_what_the_gate_would_and_measures_nothing(compiled: Bundle, tmp_path: Path) -> None:
    note = tmp_path / "verdict.md"
    options = ("--baseline", f"{compiled.path}:fp32", "-t", "openvino", "--dry-run", "--json", "--markdown", note)
    result = run("gate", *options, "--candidate", f"{compiled.path}:int8")
    assert result.code == 0
    assert result.document["threads"] >= 1
    assert not note.exists()
    assert run("gate", *options, "--candidate", f"{compiled.path}:fp16").code == 2
    assert run("gate", *options, "--candidate", f"{compiled.path}:int9").code == 2


@pytest.mark.parametrize("options", [("--self-test", "--max-drop", "0.1"), ("--candidate", "{}", "--times", "3")])
def test_gate_options_that_would_do_nothing_are_refused(compiled: Bundle, options: tuple[str, ...]) -> None:
    words = [word.format(compiled.path) for word in options]
    result = run("gate", "--baseline", compiled.path, "-t", "openvino", *words)
    assert result.code == 2
    assert "means nothing" in result.stderr


def test_the_gate_tests_itself(compiled: Bundle) -> None:
    sides = ("--baseline", f"{compiled.path}:fp32", "-t", "openvino")
    result = run("gate", *sides, "--self-test", "--times", "2", "--max-slowdown", "1000", "--json")
    assert result.code == 0
    assert len(result.document["comparisons"]) == 2
    assert run("gate", *sides).code == 2
    assert run("gate", *sides, "--self-test", "--candidate", compiled.path).code == 2


def test_the_example_workflow_uses_options_that_exist() -> None:
    words = (Path(__file__).parents[2] / "examples" / "gate.yml").read_text().split("rrr-edge gate")[1].split()
    options = {word for word in words[: words.index("verdict.md")] if word.startswith("--")}
    assert len(options) > 5
    assert options <= set(run("gate", "--help", env={"COLUMNS": "200"}).stdout.split())


# Loads


@pytest.mark.parametrize("wrong", ["0", "1,1", "two", "4,-1", "1;2"])
@pytest.mark.parametrize("option", ["--batches", "--streams"])
def test_counts_that_make_no_sense_are_refused(compiled: Bundle, option: str, wrong: str) -> None:
    result = run("profile", compiled.path, "-t", "openvino", "--against", "none", f"{option}={wrong}")
    assert result.code == 2
    assert f"{option} takes different whole numbers" in result.stderr


# Damage


@pytest.mark.parametrize(
    ("damage", "command", "repair"),
    [
        (lambda b: flip_a_byte(b.engine_folder("openvino-int8") / "model.bin"), "predict", "compile"),
        (lambda b: flip_a_byte(b.engine_folder("openvino-int8") / "engine.json"), "predict", "compile"),
        (lambda b: (b.engine_folder("openvino-int8") / "model.xml").unlink(), "predict", "compile"),
        (lambda b: flip_a_byte(b.path / "model.onnx"), "compile", "compress"),
        (lambda b: (b.path / "reference.npz").unlink(), "compile", "compress"),
        (lambda b: (b.path / "manifest.json").write_text("{}"), "predict", "compress"),
    ],
)
def test_damage_is_refused_with_the_command_that_repairs_it(
    bundle: Bundle, shapes: Path, damage: Callable[[Bundle], object], command: str, repair: str
) -> None:
    damage(bundle)
    before = sorted(bundle.path.rglob("*"))
    arguments = (shapes / "test/cross/0.png",) if command == "predict" else ("-t", "openvino")
    result = run(command, bundle.path, *arguments, "--json")
    assert result.code == 5, result.stdout
    assert f"rrr-edge {repair}" in result.document["advice"]
    assert str(bundle.path) in result.document["advice"]
    assert ("--force" in result.document["advice"]) == (repair == "compress")
    assert sorted(bundle.path.rglob("*")) == before


def test_another_machines_engine_is_exit_4(bundle: Bundle, shapes: Path) -> None:
    there = bundle.engine_folder("xeon-gold-6126-int8")
    bundle.engine_folder("openvino-int8").rename(there)
    rewrite(there / "engine.json", lambda card: card.update(target=Target.load("xeon-gold-6126").model_dump()))
    result = run("predict", bundle.path, shapes / "test/cross/0.png", "-t", "xeon-gold-6126", "--json")
    assert result.code == 4
    assert "'Gold 6126' CPU; this machine is" in result.document["error"]
    assert run("doctor", bundle.path, "--json").code == 4


# doctor and targets


def test_doctor_is_a_table_or_a_document_and_its_code_is_the_worst(bundle: Bundle) -> None:
    sound = run("doctor", bundle.path)
    assert sound.code == 0
    assert sound.stdout.count(" load") == 4
    flip_a_byte(bundle.engine_folder("openvino-int8") / "model.bin")
    result = run("doctor", bundle.path, "--json")
    assert result.code == 5
    assert [row["verdict"] for row in result.document] == ["load", "load", "load", "rebuild"]
    assert result.document[-1]["repair"].startswith("rrr-edge compile")


def test_targets_say_what_runs_here_and_what_to_do_for_what_does_not() -> None:
    rows = {row["target"]: row for row in run("targets", "--json").document}
    assert set(rows) == set(target_names()) >= {"openvino", "onnxruntime", "tensorrt"}
    assert rows["onnxruntime"]["here"] == "fp32"
    assert {"fp32", "int8"} <= set(rows["openvino"]["here"].split(", "))
    for row in rows.values():
        assert (row["here"] == "no" or row["here"].startswith("compiles ")) == bool(row["otherwise"])
    table = run("targets").stdout
    assert all(name in table for name in rows)


def test_a_broken_target_file_is_a_row_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "mine.toml").write_text("name = ")
    rows = {row["target"]: row for row in run("targets", "--json").document}
    assert rows["mine"]["here"] == "no"
    assert "targets/mine.toml cannot be read as TOML" in rows["mine"]["otherwise"]
    assert rows["onnxruntime"]["here"] == "fp32"


def test_torch_without_the_rest_of_the_workshop_profiles_what_is_there(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch alone, as on many a device; the baseline's file is not there either, which is said."""
    monkeypatch.setitem(sys.modules, "rrr_edge.compress.baselines", None)
    result = run("profile", bundle.path, "-t", "onnxruntime", "--runs", "20", "--json")
    assert "PyTorch is not measured" in result.stderr
    assert pip_install("compress") in result.stderr
    assert result.code == 4
    assert "resnet152.onnx is missing" in result.document["error"]


def test_a_profile_says_that_it_replaced_another(compiled: Bundle, tmp_path: Path) -> None:
    shutil.copytree(compiled.path, tmp_path / "b.rrr", ignore=shutil.ignore_patterns("profiles"))
    words = ("-t", "openvino", "--precision", "fp32", "--against", "none", "--no-anatomy", "--runs", "20")
    first, second = (run("profile", tmp_path / "b.rrr", *words).stdout for _ in range(2))
    assert "(replaced)" not in first
    assert "(replaced)" in second


def test_predictions_do_not_depend_on_their_company(compiled: Bundle, photos: Path) -> None:
    together = {row["image"]: row for row in run("predict", compiled.path, photos, "--json").document["predictions"]}
    for image, row in together.items():
        alone = run("predict", compiled.path, image, "--json").document["predictions"][0]
        assert np.allclose(alone["probability"], row["probability"], atol=1e-6)
