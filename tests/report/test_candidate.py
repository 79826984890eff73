import shutil
from pathlib import Path

import pytest
from fake_bundle import write_engine
from made_up import HERE, TARGET, make_bundle, profile, rewrite, store

from rrr_edge.bundle.files import sha256
from rrr_edge.errors import BadInput, CorruptArtifact, UsageError
from rrr_edge.report.candidate import candidates_of


def test_bundles_keep_their_order_and_each_has_its_fastest_engine_first(tmp_path: Path) -> None:
    slow, fast = (make_bundle(tmp_path / f"{name}.rrr", name=name) for name in ("slow", "fast"))
    store(slow, profile(slow, ms=5, target=TARGET.model_copy(update={"precision": "fp32"})))
    store(slow, profile(slow, ms=4))
    store(fast, profile(fast, ms=1))
    found = candidates_of([slow.path, fast.path, slow.path], allow_cross_machine=False)
    assert [(c.profile.bundle, c.profile.target.precision) for c in found] == [
        ("slow", "int8"),
        ("slow", "fp32"),
        ("fast", "int8"),
    ]


def test_machines_share_no_column_unless_allowed(tmp_path: Path) -> None:
    a, b = (make_bundle(tmp_path / f"{name}.rrr", name=name) for name in "ab")
    store(a, profile(a))
    store(b, profile(b, environment=HERE.model_copy(update={"machine_id": "ffffffff", "cpu": "Other 1"})))
    with pytest.raises(UsageError, match=r"Imaginary 9000 \(0123abcd\) and Other 1 \(ffffffff\)") as caught:
        candidates_of([a.path, b.path], allow_cross_machine=False)
    assert "--allow-cross-machine" in caught.value.advice
    assert len(candidates_of([a.path, b.path], allow_cross_machine=True)) == 2


def test_what_was_not_profiled_or_has_changed_since_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "a b.rrr")
    with pytest.raises(UsageError, match="has no engine yet, so it has not been profiled") as caught:
        candidates_of([bundle.path], allow_cross_machine=False)
    assert caught.value.advice == f"Run: rrr-edge compile '{bundle.path}' --target openvino"
    for engine, named in (("mine-fp32", "FILE.toml"), ("openvino-fp32", "openvino")):
        shutil.rmtree(bundle.path / "engines", ignore_errors=True)
        bundle.engine_folder(engine).mkdir(parents=True)
        (bundle.engine_folder(engine) / "engine.json").touch()
        with pytest.raises(UsageError, match="has not been profiled") as caught:
            candidates_of([bundle.path], allow_cross_machine=False)
        assert caught.value.advice == f"Run: rrr-edge profile '{bundle.path}' --target {named} --precision fp32"
    store(bundle, profile(bundle))
    rewrite(bundle, bundle.manifest.model_copy(update={"name": "other"}))
    with pytest.raises(CorruptArtifact, match="changed since its openvino-int8 engine was profiled"):
        candidates_of([bundle.path], allow_cross_machine=False)
    with pytest.raises(BadInput, match="no bundle"):
        candidates_of([tmp_path / "none.rrr"], allow_cross_machine=False)


def test_a_profile_of_an_engine_that_was_replaced_is_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "mugs.rrr")
    write_engine(bundle, TARGET, ("model.bin", b"x"))
    card = bundle.engine_folder(TARGET.engine_name) / "engine.json"
    for profiled in (sha256(card), ""):  # older profiles do not say which
        store(bundle, profile(bundle, engine_sha256=profiled))
        assert len(candidates_of([bundle.path], allow_cross_machine=False)) == 1
        shutil.rmtree(bundle.path / "profiles")
    store(bundle, profile(bundle, engine_sha256=sha256(card)))
    card.write_text(card.read_text() + "\n")
    with pytest.raises(CorruptArtifact, match="openvino-int8 engine of .* has been compiled anew since") as caught:
        candidates_of([bundle.path], allow_cross_machine=False)
    assert "rrr-edge profile" in caught.value.advice
    shutil.rmtree(card.parent)  # on another machine, say
    assert len(candidates_of([bundle.path], allow_cross_machine=False)) == 1
