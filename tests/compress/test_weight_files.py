"""What people have as files of weights: forty of them and more, each read as what it is or refused with a sentence."""

import argparse
import functools
import gzip
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from rrr_edge.bundle.sources import SOURCES
from rrr_edge.compress.weights import read_resnet
from rrr_edge.errors import BadInput

CLASSES = 20
COUNT = "num_batches_tracked"
HEAD = ("fc.weight", "fc.bias")
State = dict[str, Any]


def state_of(name: str = "resnet18", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A torchvision network's, each tensor full of a number of its own, which takes next to no room in a file."""
    return {
        name: torch.tensor(i) if name.endswith(COUNT) else torch.tensor(i, dtype=dtype).expand(shape)
        for i, (name, shape) in enumerate(shapes_of(name).items())
    }


@functools.cache
def shapes_of(name: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, num_classes=CLASSES)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def under(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: value for name, value in state.items()}


def within(*keys: str, **beside: Any) -> Callable[[State], State]:
    def wrap(state: State) -> State:
        for key in reversed(keys):
            state = {key: state}
        return {"epoch": 3, **state, **beside}

    return wrap


def both(first: Callable[[State], State], then: Callable[[State], State]) -> Callable[[State], State]:
    return lambda state: then(first(state))


def lightnings(state: State) -> State:
    """As Trainer.save_checkpoint writes it."""
    return {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": under("model.")(state) | {"criterion.weight": torch.ones(CLASSES)},
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5), "dirpath": "x"}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": {"lr": 0.1},
    }


def timms(state: State) -> State:
    """As timm's CheckpointSaver writes it; the average's numbers are others."""
    average = {name: torch.zeros(()).expand(value.shape) for name, value in state.items()}
    return {"epoch": 3, "arch": "resnet18", "state_dict": state, "args": argparse.Namespace(lr=0.1)} | {
        "state_dict_ema": average,
        "optimizer": {"state": {0: {"step": torch.tensor(1)}}, "param_groups": []},
    }


def transformers_name(name: str) -> str:
    if name.startswith("fc."):
        return name.replace("fc.", "classifier.1.")
    if stem := re.fullmatch(r"(conv|bn)1\.(.+)", name):
        kind = {"conv": "convolution", "bn": "normalization"}[stem[1]]
        return f"resnet.embedder.embedder.{kind}.{stem[2]}"
    phase, block, module, rest = re.fullmatch(r"layer(\d)\.(\d+)\.(downsample\.\d|conv\d|bn\d)\.(.+)", name).groups()
    kind = "convolution" if module.startswith("conv") or module == "downsample.0" else "normalization"
    where = "shortcut" if "downsample" in module else f"layer.{int(module[-1]) - 1}"
    return f"resnet.encoder.stages.{int(phase) - 1}.layers.{block}.{where}.{kind}.{rest}"


def transformers(state: State) -> State:
    return {transformers_name(name): value for name, value in state.items()}


def as_children(state: State) -> State:
    """Of nn.Sequential(*list(resnet.children())[:-1]), beside a classifier."""
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    parts = {name: name.partition(".") for name in state}
    return {
        f"features.{numbers[first]}.{rest}" if first in numbers else f"classifier.{rest}": state[name]
        for name, (first, _, rest) in parts.items()
    }


def with_head(**head: Tensor | None) -> Callable[[State], State]:
    def swap(state: State) -> State:
        return {k: v for k, v in state.items() if k not in HEAD} | {k.replace("_", "."): v for k, v in head.items()}

    return swap


def without_counts(state: State) -> State:
    return {name: value for name, value in state.items() if not name.endswith(COUNT)}


def saved(path: Path, state: State) -> None:
    torch.save(state, path)


def saved_by_old_torch(path: Path, state: State) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def as_safetensors(path: Path, state: State) -> None:
    save_file({name: value.contiguous() for name, value in state.items()}, path)


class Read(NamedTuple):
    dress: Callable[[State], State]
    file: str
    said: str
    write: Callable[[Path, State], None] = saved
    dtype: torch.dtype = torch.float32
    classes: int | None = CLASSES


PLAIN = "a ResNet18 for 20 classes, in torchvision's names"
READ = [
    Read(dict, "w.pth", f"{PLAIN}, float32"),
    Read(dict, "w.pt", f"{PLAIN}, float32", saved_by_old_torch),
    Read(dict, "w.weights", f"{PLAIN}, float32"),
    Read(dict, "w.safetensors", f"{PLAIN}, float16", as_safetensors, torch.float16),
    Read(under("module."), "w.safetensors", f"{PLAIN} after `module.`, bfloat16", as_safetensors, torch.bfloat16),
    Read(dict, "w.pth", f"{PLAIN}, float16", dtype=torch.float16),
    Read(dict, "w.pth", f"{PLAIN}, bfloat16", dtype=torch.bfloat16),
    Read(dict, "w.pth", f"{PLAIN}, float64", dtype=torch.float64),
    Read(without_counts, "w.pth", f"{PLAIN}, float32"),
    *(
        Read(under(prefix), "w.pth", f"{PLAIN} after `{prefix}`, float32")
        for prefix in ("module.", "_orig_mod.", "model.", "backbone.", "net.", "module._orig_mod.", "model.backbone.")
    ),
    *(
        Read(within(key), f"w{ending}", f"{PLAIN} after `{key}.`, float32")
        for key, ending in [
            ("state_dict", ".pth.tar"),
            ("model_state_dict", ".pt"),
            ("model", ".pth"),
            ("model_state", ".pth"),
            ("ema", ".pt"),
        ]
    ),
    Read(
        both(under("module."), within("state_dict", best_acc1=torch.tensor(0.7))), "w.pth.tar", "`state_dict.module.`"
    ),
    Read(within("model", best=np.float64(0.7), step=np.int64(3)), "w.pth", "after `model.`"),
    Read(both(under("net._orig_mod.module."), within("ema", "shadow")), "w.pt", "`ema.shadow.net._orig_mod.module.`"),
    Read(lightnings, "last.ckpt", f"{PLAIN} after `state_dict.model.`, float32; not read: state_dict.criterion"),
    Read(both(as_children, within("state_dict")), "w.ckpt", "in nn.Sequential's names after `state_dict.features.`"),
    Read(timms, "w.pth.tar", f"{PLAIN} after `state_dict.`, float32; not read: state_dict_ema"),
    Read(within("model_ema", model=None), "w.pth", "after `model_ema.`"),
    Read(
        transformers, "pytorch_model.bin", "a ResNet18 for 20 classes, in transformers' names after `resnet.`, float32"
    ),
    Read(
        transformers,
        "model.safetensors",
        "in transformers' names after `resnet.`, float16",
        as_safetensors,
        torch.float16,
    ),
    Read(
        both(transformers, lambda s: {k.removeprefix("resnet."): v for k, v in s.items()}),
        "w.bin",
        "transformers' names, f",
    ),
    Read(with_head(), "w.pth", "a ResNet18 without a linear classifier", classes=None),
    Read(with_head(head_weight=torch.zeros(7, 512), head_bias=torch.zeros(7)), "w.pth", "for 7 classes", classes=7),
    Read(with_head(fc_1_weight=torch.zeros(5, 512)), "w.pth", "for 5 classes", classes=5),
    Read(
        with_head(fc_0_weight=torch.zeros(64, 512), fc_2_weight=torch.zeros(5, 64)),
        "w.pth",
        "without a linear classifier, in torchvision's names, float32; not read: fc",
        classes=None,
    ),
]


@pytest.mark.parametrize("case", READ, ids=[f"{i}-{case.file}" for i, case in enumerate(READ)])
def test_is_read(tmp_path: Path, case: Read) -> None:
    state = state_of(dtype=case.dtype)
    case.write(tmp_path / case.file, case.dress(state))
    found = read_resnet(tmp_path / case.file)
    assert case.said in found.words
    assert found.source is SOURCES["resnet18"]
    expected = {name: value for name, value in state.items() if name not in HEAD}
    assert found.trunk.keys() == expected.keys()
    for name, value in found.trunk.items():
        assert value.dtype == (torch.int64 if name.endswith(COUNT) else torch.float32)
        assert value.shape == expected[name].shape
        counted = not name.endswith(COUNT) or case.dress is not without_counts
        assert torch.equal(value.flatten()[:1], expected[name].flatten()[:1].to(value.dtype)) or not counted
    assert (found.head and len(found.head.weight)) == case.classes
    if case.classes == CLASSES:
        assert torch.equal(found.head.weight, state["fc.weight"].float())
        assert torch.equal(found.head.bias, state["fc.bias"].float())


def torchscript(path: Path) -> None:
    torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 1))).save(path)


def cut(path: Path) -> None:
    saved(path, state_of())
    path.write_bytes(path.read_bytes()[:-1000])


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("resnet152.txt", "no weights")


def of(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def holding(make: Callable[[], Any]) -> Callable[[Path], None]:
    return lambda path: torch.save(make(), path)


def two_of_them() -> State:
    return {"state_dict": under("module.encoder_q.")(state_of()) | under("module.encoder_k.")(state_of())}


REFUSED: list[tuple[str, Callable[[Path], None], str]] = [
    ("w.pt", torchscript, "is a TorchScript archive, a program with its weights, and no program in a file is ever run"),
    ("w.pth", holding(lambda: nn.Linear(2, 2)), r"holds more than tensors \(torch\.nn\.modules\.linear\.Linear\)"),
    ("w.ckpt", holding(lambda: {"state_dict": state_of(), "cfg": Path("x")}), r"holds more than tensors \(pathlib\."),
    ("w.pth", cut, "is damaged or cut short"),
    ("w.zip", zipped, "is a zip archive, but not one that torch.save wrote"),
    ("w.pth.tar", of(bytes(257) + b"ustar"), "is a tar archive: unpack it first"),
    ("w.pth.gz", of(gzip.compress(b"x")), "is compressed by gzip: unpack it first"),
    ("w.bin", of(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "is a pointer of Git LFS"),
    ("w.pth", of(b"\n<!DOCTYPE html><html>"), "is a page of the web"),
    ("w.h5", of(b"\x89HDF\r\n\x1a\n"), "is an HDF5 file, as Keras writes them"),
    ("w.onnx", of(b"\x08\x08\x12\x07pytorch"), "is damaged, or no file of weights"),
    ("w.pth", of(b""), "is empty"),
    ("w.pth", holding(lambda: list(state_of().values())), "holds no state dict but list"),
    ("w.pth", holding(lambda: {"epoch": 3}), "holds no tensors under names"),
    ("w.pth", holding(lambda: {"features.0.weight": torch.zeros(1)}), "its tensors are features.0.weight"),
    ("w.pth", holding(two_of_them), "2 ResNets, after `state_dict.module.encoder_q.`, `state_dict.module.encoder_k.`"),
    ("w.pth", holding(lambda: state_of("wide_resnet50_2")), "holds the weights of a Wide ResNet50-2"),
    ("w.pth", holding(lambda: state_of("resnext101_64x4d")), "holds the weights of a ResNeXt101 64x4d"),
    (
        "w.pth",
        holding(lambda: state_of() | {"layer1.0.se.weight": torch.ones(3)}),
        "a ResNet18: layer1.0.se.weight is not",
    ),
    ("w.pth", holding(lambda: state_of() | {"bn1.bias": torch.full((64,), torch.inf)}), "bn1.bias is not finite"),
]


@pytest.mark.parametrize(("file", "write", "said"), REFUSED, ids=[f"{i}-{case[0]}" for i, case in enumerate(REFUSED)])
def test_is_refused(tmp_path: Path, file: str, write: Callable[[Path], None], said: str) -> None:
    write(tmp_path / file)
    with pytest.raises(BadInput, match=said) as caught:
        read_resnet(tmp_path / file)
    assert str(tmp_path / file) in str(caught.value)
    assert caught.value.advice
    assert "weights_only" not in f"{caught.value} {caught.value.advice}"


def test_the_table_has_forty_files() -> None:
    assert len(READ) + len(REFUSED) >= 40


def test_the_names_of_transformers_are_its_own() -> None:
    """Kept from ResNetForImageClassification(ResNetConfig(depths=[1, 2, 1, 1])) of transformers 5.24."""
    names = (Path(__file__).parent / "transformers_names.txt").read_text().split()
    kept = {name for name in state_of("resnet152") if not re.match(r"layer[134]\.[1-9]|layer2\.[2-9]", name)}
    assert sorted(names) == sorted(transformers_name(name) for name in kept)


def test_safetensors_are_known_whatever_their_header_is_long(tmp_path: Path) -> None:
    """The first byte is the lowest of the header's length: 0x80 begins a pickle too, and "PK" a zip archive."""
    state = {name: value.contiguous() for name, value in state_of(dtype=torch.float16).items()}
    for filler in range(256):
        save_file(state, tmp_path / "w.safetensors", metadata={"note": " " * 8 * filler})
        if (tmp_path / "w.safetensors").read_bytes()[:1] == b"\x80":
            break
    else:
        pytest.fail("no header has such a length")
    assert read_resnet(tmp_path / "w.safetensors").source is SOURCES["resnet18"]


def test_where_memory_is_lacking_the_file_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    torch.save(state_of(), tmp_path / "w.pth")
    monkeypatch.setattr("torch.load", fail)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        read_resnet(tmp_path / "w.pth")
