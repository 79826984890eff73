"""Good files are read alike; bad ones, hostile ones and dead networks are refused with one sentence, and soon."""

import hashlib
import pickle
import zipfile
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from rrr_edge.bundle.sources import SOURCES, Source
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.compress.weights import check_weights, load_weights
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.networks import build

ONES = (1, 1, 1, 1)
HEAD = "fc.weight", "fc.bias"


@pytest.fixture(scope="module")
def good() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build(ResNetSpec(depths=ONES, num_classes=3)).state_dict()


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    wanted = [name for name in expected if name not in HEAD]
    return sorted(found) == sorted(wanted) and all(torch.equal(found[name], expected[name]) for name in wanted)


def test_timms_resnet152_has_the_names_and_shapes_we_load():
    with torch.device("meta"):
        theirs = timm.create_model("resnet152").state_dict()
        ours = build(ResNetSpec()).state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


def test_the_info_names_the_file_and_says_what_it_holds(tmp_path, good):
    path = tmp_path / "mine.pth"
    torch.save({"state_dict": good}, path)
    found, info = load_weights(path, depths=ONES)
    assert same(found, good)
    assert info[:2] == (path.name, hashlib.sha256(path.read_bytes()).hexdigest())
    assert info.found == (
        f"{path} holds a ResNet of 1, 1, 1, 1 bottleneck blocks for 3 classes, in torchvision's names after "
        "`state_dict.`, float32."
    )
    assert check_weights(str(path)) == info.found


def test_old_formats_half_precision_other_heads_and_absent_counts_are_read(tmp_path, good):
    halved = {k: v.half() if v.is_floating_point() else v for k, v in good.items()}
    odd = {k: v for k, v in halved.items() if k not in HEAD and not k.endswith("num_batches_tracked")}
    odd["fc.0.weight"] = torch.nn.Parameter(torch.zeros(7, 7))
    torch.save(odd, tmp_path / "odd.pth", _use_new_zipfile_serialization=False)
    found, _ = load_weights(tmp_path / "odd.pth", depths=ONES)
    expected = {k: v.float() if v.is_floating_point() else v for k, v in halved.items()}
    assert same(found, expected)
    assert all(v.dtype == good[k].dtype and not v.requires_grad for k, v in found.items())


def test_a_deeper_file_serves_a_shallower_network(tmp_path):
    torch.manual_seed(0)
    deeper = build(ResNetSpec(depths=(1, 2, 1, 1))).state_dict()
    save_file(deeper, tmp_path / "deeper.safetensors")
    found, _ = load_weights(tmp_path / "deeper.safetensors", depths=ONES)
    assert set(build(ResNetSpec(depths=ONES)).load_state_dict(found, strict=False).missing_keys) == set(HEAD)
    with pytest.raises(BadInput, match=r"has 1,2,1,1 blocks in conv2_x \.\. conv5_x, and 1,2,2,1 are needed"):
        load_weights(tmp_path / "deeper.safetensors", depths=(1, 2, 2, 1))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet101"])
def test_a_file_of_another_network_is_refused_with_its_name_and_the_option_that_takes_it(tmp_path, name):
    state = {key: torch.zeros(()).expand(shape) for key, shape in SOURCES[name].shapes().items()}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(BadInput, match=rf"of a {SOURCES[name].name}, and a ResNet152 is asked for") as caught:
        load_weights(tmp_path / "other.pth", depths=ONES)
    assert (f"--backbone {name}" in caught.value.advice) == (name != "resnet18")
    assert load_weights(tmp_path / "other.pth", backbone=name)[0].keys() == state.keys()


@pytest.mark.parametrize("depths", [(3, 8, 36, 4), (4, 8, 36, 3), (3, 24, 36, 3), (2, 2, 2, 2)])
def test_a_file_of_another_network_is_refused_though_its_leading_blocks_fit(tmp_path, depths):
    state = {name: torch.zeros(()).expand(shape) for name, shape in Source("", "bottleneck", depths).shapes().items()}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(BadInput, match=r"a ResNet.*, and a ResNet152 is asked for"):
        load_weights(tmp_path / "other.pth", depths=ONES)


def without(name):
    return lambda s: {k: v for k, v in s.items() if k != name}


def with_entry(name, value):
    return lambda s: s | {name: value}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("layer2.0.bn2.bias"), r"layer2\.0\.bn2\.bias is missing"),
        (
            with_entry("conv1.weight", torch.zeros(64, 4, 7, 7)),
            r"conv1\.weight \[64, 4, 7, 7\] instead of \[64, 3, 7, 7\]",
        ),
        (with_entry("layer1.0.se.weight", torch.zeros(3)), r"layer1\.0\.se\.weight is not among"),
        (with_entry("layer1.3.conv1.weight", torch.zeros(3)), r"layer1\.3\.conv1\.weight is not among"),
        (with_entry("bn1.bias", torch.full((64,), float("nan"))), r"bn1\.bias is not finite"),
        (with_entry("bn1.bias", torch.zeros(64, dtype=torch.int64)), r"bn1\.bias is not dense floats"),
        (with_entry("bn1.bias", torch.zeros(64).to_sparse()), r"bn1\.bias is not dense floats"),
        (with_entry("bn1.bias", torch.zeros(64, dtype=torch.float64) + 1e300), r"bn1\.bias is not finite"),
        (with_entry("bn1.bias", torch.zeros(64, device="meta")), r"bn1\.bias is not dense floats"),
        (with_entry("bn1.bias", [0.0] * 64), r"bn1\.bias is not a tensor"),
        (without("layer1.0.conv2.weight"), r"layer1\.0\.conv2\.weight is missing"),
        (with_entry("fc.weight", torch.full((3, 2048), float("inf"))), "the classifier is not finite"),
        (lambda s: {k: v for k, v in s.items() if "layer4" not in k}, r"layer4\.0\.conv1\.weight.* more are missing"),
        (lambda s: {}, "it holds no tensors under names"),
        (lambda s: {0: 1}, "it holds no tensors under names"),
        (lambda s: s["conv1.weight"], "no state dict but Tensor"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, good, spoil, said):
    torch.save(spoil(good), tmp_path / "bad.pth")
    with pytest.raises(BadInput, match=said) as caught:
        load_weights(tmp_path / "bad.pth", depths=ONES)
    assert caught.value.exit_code == 5
    assert caught.value.advice


def test_safetensors_that_do_not_fit_are_named(tmp_path, good):
    save_file(good | {"bn1.bias": torch.zeros(65)}, tmp_path / "bad.safetensors")
    with pytest.raises(BadInput, match=r"bn1\.bias \[65\] instead of \[64\]"):
        load_weights(tmp_path / "bad.safetensors", depths=ONES)


class Trap:
    """Unpickled, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def as_zip(path: Path, trap: Trap) -> None:
    torch.save({"conv1.weight": torch.zeros(1), "payload": trap}, path)


def as_plain_pickle(path: Path, trap: Trap) -> None:
    path.write_bytes(pickle.dumps(trap))


def as_legacy(path: Path, trap: Trap) -> None:
    torch.save({"payload": trap}, path, _use_new_zipfile_serialization=False)


def with_payload_for_pickled_storage(path: Path, trap: Trap) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(trap, protocol=2))
        file.writestr("archive/version", "3\n")


@pytest.mark.parametrize("write", [as_zip, as_plain_pickle, as_legacy, with_payload_for_pickled_storage])
@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_no_code_of_a_file_runs(tmp_path, monkeypatch, write, ending):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, sprung = tmp_path / f"trap{ending}", tmp_path / "sprung"
    write(path, Trap(sprung))
    with pytest.raises(BadInput):
        load_weights(path, depths=ONES)
    assert not sprung.exists()


def test_the_trap_would_work(tmp_path):
    as_zip(tmp_path / "trap.pth", Trap(tmp_path / "sprung"))
    torch.load(tmp_path / "trap.pth", weights_only=False)
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0, 1, 8, 1000, 0.5, 0.999])
def test_truncated_files_are_refused(tmp_path, good, ending, kept):
    path = tmp_path / f"cut{ending}"
    save_file(good, path) if ending == ".safetensors" else torch.save(good, path)
    data = path.read_bytes()
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(BadInput, match=r"cut\."):
        load_weights(path, depths=ONES)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
def test_noise_is_refused(tmp_path, ending):
    path = tmp_path / f"noise{ending}"
    path.write_bytes(bytes(range(256)) * 64)
    with pytest.raises(BadInput, match=r"noise\."):
        load_weights(path)


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(UsageError, match="Did you mean 'imagenet-v2'"):
        load_weights("imagenet_v2")
    with pytest.raises(UsageError, match="no weights 'imagenet-v2' of ResNet18"):
        load_weights("imagenet-v2", backbone="resnet18")
    with pytest.raises(UsageError, match="is a folder") as caught:
        load_weights(tmp_path)
    assert "safetensors" in caught.value.advice


def test_random_weights_depend_on_the_seed_alone(good):
    torch.manual_seed(1)
    first, info = load_weights("random", depths=ONES, seed=7)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second, again = load_weights("random", depths=ONES, seed=7)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert info == again
    assert same(first, second)
    assert set(first) == set(good) - set(HEAD)
    other, other_info = load_weights("random", depths=ONES, seed=8)
    assert other_info.sha256 != info.sha256
    assert not torch.equal(other["conv1.weight"], first["conv1.weight"])


def test_random_weights_are_drawn_as_torchvision_draws_them():
    drawn, _ = load_weights("random", backbone="resnet18")
    torch.manual_seed(0)
    theirs = {k: v for k, v in torchvision.models.resnet18().state_dict().items() if k not in HEAD}
    assert list(drawn) == list(theirs)
    for name, tensor in theirs.items():
        assert drawn[name].dtype == tensor.dtype
        assert drawn[name].shape == tensor.shape
        if tensor.ndim == 4:
            # Of n normal numbers the deviation has a standard error of 1 / sqrt(2 n); the least n is 8,192.
            torch.testing.assert_close(drawn[name].std(), tensor.std(), rtol=8 / (2 * tensor.numel()) ** 0.5, atol=0)
        else:
            assert torch.equal(drawn[name], tensor)
