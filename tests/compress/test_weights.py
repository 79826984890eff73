"""Good files are read alike; bad ones, hostile ones and dead networks are refused with one sentence, and soon."""

import hashlib
import http.server
import pickle
import socket
import ssl
import threading
import time
import urllib.error
import zipfile
from collections import OrderedDict
from email.message import Message
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.compress import compress, weights
from rrr_edge.compress.published import PUBLISHED, Published
from rrr_edge.compress.weights import load_weights
from rrr_edge.errors import BadInput, UsageError
from rrr_edge.networks import build

ONES = (1, 1, 1, 1)
HEAD = "fc.weight", "fc.bias"


@pytest.fixture(scope="module")
def good() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return build(ResNetSpec(depths=ONES, num_classes=3)).state_dict()


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch) -> Path:
    """Empty caches and no proxies, whatever the machine has."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "hub" / "checkpoints"


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    wanted = [name for name in expected if name not in HEAD]
    return sorted(found) == sorted(wanted) and all(torch.equal(found[name], expected[name]) for name in wanted)


def test_the_published_files_are_torchvisions_and_timms():
    known = torchvision.models.ResNet152_Weights
    assert PUBLISHED["imagenet"].url == known.IMAGENET1K_V1.url
    assert PUBLISHED["imagenet-v2"].url == known.IMAGENET1K_V2.url
    config = timm.get_pretrained_cfg("resnet152.a1h_in1k")
    assert config.hf_hub_id == PUBLISHED["timm"].hugging_face == "timm/resnet152.a1h_in1k"
    assert PUBLISHED["timm"].url == config.url
    assert all(published.url.endswith(published.file) for published in PUBLISHED.values())
    assert all(weights._expected_digits(published) for published in PUBLISHED.values())


def test_timms_resnet152_has_the_names_and_shapes_we_load():
    with torch.device("meta"):
        theirs = timm.create_model("resnet152").state_dict()
        ours = build(ResNetSpec()).state_dict()
    assert {k: v.shape for k, v in theirs.items()} == {k: v.shape for k, v in ours.items()}


def wrapped(state_dict):
    return {"epoch": 3, "optimizer": {"lr": 0.1}, "state_dict": state_dict}


def from_data_parallel(state_dict):
    return OrderedDict((f"module.{name}", tensor) for name, tensor in state_dict.items())


@pytest.mark.parametrize("dress", [dict, wrapped, from_data_parallel, lambda s: wrapped(from_data_parallel(s))])
@pytest.mark.parametrize("ending", [".pth", ".pt"])
def test_files_of_torch_are_read(tmp_path, good, dress, ending):
    path = tmp_path / f"mine{ending}"
    torch.save(dress(good), path)
    found, info = load_weights(path, depths=ONES)
    assert same(found, good)
    assert info == (path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def test_safetensors_are_read(tmp_path, good):
    save_file(good, tmp_path / "mine.safetensors")
    assert same(load_weights(str(tmp_path / "mine.safetensors"), depths=ONES)[0], good)


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
    # Three convolutions of one tensor and three normalisations of four, counts of batches aside; three are named.
    with pytest.raises(BadInput, match=rf"layer3\.1\.conv1\.weight.* and {3 * 5 - 3} more are missing"):
        load_weights(tmp_path / "deeper.safetensors", depths=(1, 2, 2, 1))


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
        (with_entry("layer1.0.se.weight", torch.zeros(3)), r"layer1\.0\.se\.weight is not ResNet152's"),
        (with_entry("layer1.3.conv1.weight", torch.zeros(3)), r"layer1\.3\.conv1\.weight is not ResNet152's"),
        (with_entry("bn1.bias", torch.full((64,), float("nan"))), r"bn1\.bias is not finite"),
        (with_entry("bn1.bias", torch.zeros(64, dtype=torch.int64)), r"bn1\.bias is not dense floats"),
        (with_entry("bn1.bias", torch.zeros(64).to_sparse()), r"bn1\.bias is not dense floats"),
        (with_entry("bn1.bias", torch.zeros(64, dtype=torch.float64) + 1e300), r"bn1\.bias is not finite"),
        (with_entry("bn1.bias", torch.zeros(64, device="meta")), r"bn1\.bias is not dense floats"),
        (with_entry("bn1.bias", [0.0] * 64), r"bn1\.bias is not a tensor"),
        (lambda s: {}, r"conv1\.weight, bn1\.weight, bn1\.bias and \d+ more are missing"),
        (lambda s: {0: 1}, "no state dict"),
        (lambda s: list(s.values()), "no state dict but list"),
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


def test_other_endings_and_unknown_names_are_refused(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"\.onnx"):
        load_weights(tmp_path / "model.onnx")
    with pytest.raises(UsageError, match="Did you mean 'imagenet-v2'"):
        load_weights("imagenet_v2")
    with pytest.raises(UsageError, match="no weights"):
        load_weights(tmp_path)


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


def refuse_all_connections(*args, **kwargs):
    raise AssertionError("the network was asked")


def test_a_file_in_torchs_cache_needs_no_network(caches, monkeypatch, good):
    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse_all_connections)
    caches.mkdir(parents=True)
    torch.save(good, caches / "unnamed.pth")
    digest = hashlib.sha256((caches / "unnamed.pth").read_bytes()).hexdigest()
    cached = (caches / "unnamed.pth").rename(caches / f"resnet152-{digest[:8]}.pth")
    monkeypatch.setitem(PUBLISHED, "imagenet", Published("http://127.0.0.1:9/", cached.name))
    found, info = load_weights("imagenet", depths=ONES)
    assert same(found, good)
    assert info == ("imagenet", digest)


def test_a_cached_file_that_is_not_what_its_name_says_is_refused(caches, good):
    caches.mkdir(parents=True)
    torch.save(good, caches / PUBLISHED["imagenet"].file)
    with pytest.raises(BadInput, match=rf"{PUBLISHED['imagenet'].file} is damaged or another file") as caught:
        load_weights("imagenet", depths=ONES)
    assert caught.value.advice.startswith("Delete it")


def test_a_file_in_hugging_faces_cache_needs_no_network(tmp_path, monkeypatch, good):
    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse_all_connections)
    repository = tmp_path / "hf" / "models--timm--resnet152.a1h_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    save_file(good, repository / "snapshots" / "abc" / "model.safetensors")
    assert same(load_weights("timm", depths=ONES)[0], good)


class Server(http.server.BaseHTTPRequestHandler):
    """Answers /resnet152-XXXXXXXX.pth with `body`, of which it claims `claimed` bytes."""

    body = b""
    claimed = 0

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(self.claimed))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    with http.server.HTTPServer(("127.0.0.1", 0), Server) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()

        def publish(body: bytes, *, digits: str = "", claimed: int | None = None) -> Published:
            monkeypatch.setattr(Server, "body", body)
            monkeypatch.setattr(Server, "claimed", len(body) if claimed is None else claimed)
            name = f"resnet152-{digits or hashlib.sha256(body).hexdigest()[:8]}.pth"
            published = Published(f"http://127.0.0.1:{running.server_port}/{name}", name)
            monkeypatch.setitem(PUBLISHED, "imagenet", published)
            return published

        yield publish
        running.shutdown()


def test_a_download_is_checked_cached_and_reported(tmp_path, caches, server, good, monkeypatch):
    torch.save(good, tmp_path / "served.pth")
    body = (tmp_path / "served.pth").read_bytes()
    published = server(body)
    steps = []
    assert same(load_weights("imagenet", depths=ONES, on_progress=steps.append)[0], good)
    assert steps[-1].done == steps[-1].total == len(body)
    assert [file.name for file in caches.iterdir()] == [published.file]
    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse_all_connections)
    assert same(load_weights("imagenet", depths=ONES)[0], good)


@pytest.mark.parametrize("fault", [{"digits": "00000000"}, {"claimed": 1000}])
def test_a_download_that_is_not_the_file_leaves_nothing(caches, server, fault):
    server(b"x" * 100, **fault)
    with pytest.raises(BadInput, match="not the whole file"):
        load_weights("imagenet")
    assert not list(caches.iterdir())


def fails_soon(source: str) -> BadInput:
    """When they are loaded, and with the same sentence when that is only foreseen."""
    said = []
    for act in (load_weights, weights.require_download):
        start = time.monotonic()
        with pytest.raises(BadInput, match=r"cannot be downloaded: [^<>\[\]]+\.$") as caught:
            act(source)
        assert time.monotonic() - start < 15
        assert "--weights random" in caught.value.advice
        said.append(str(caught.value))
    assert said[0] == said[1]
    return caught.value


def test_a_closed_port_a_dead_proxy_and_a_mute_server_are_given_up(monkeypatch):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{mute.getsockname()[1]}"
        monkeypatch.setitem(PUBLISHED, "imagenet", Published(f"{closed}/x.pth", "x.pth"))
        assert "cannot be downloaded: connection refused." in str(fails_soon("imagenet"))
        monkeypatch.setenv("https_proxy", closed)
        assert "download.pytorch.org" in str(fails_soon("imagenet-v2"))
        mute.listen()
        monkeypatch.setattr(weights, "_STALLED_S", 0.3)
        assert "no answer in 0.3 s" in str(fails_soon("imagenet"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (urllib.error.URLError(socket.gaierror(-2, "Name or service not known")), "its host is not found"),
        (urllib.error.HTTPError("http://x", 404, "Not Found", Message(), None), "the server answered 404 (Not Found)"),
        (urllib.error.URLError(OSError(101, "Network is unreachable")), "network is unreachable"),
        (urllib.error.URLError("unknown url type: ftps"), "unknown url type: ftps"),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), "no secure connection"),
    ],
)
def test_what_went_wrong_is_said_in_words(monkeypatch, error, said):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(weights.urllib.request, "urlopen", fail)
    assert said in str(fails_soon("imagenet"))


def test_a_dead_network_is_known_before_the_photos_are_read(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(weights.urllib.request, "urlopen", refuse_all_connections)
    monkeypatch.setattr("rrr_edge.compress.scan", None)
    with pytest.raises(BadInput, match="cannot be downloaded: the network was asked"):
        compress(shapes, tmp_path / "x.rrr")


def test_a_look_up_that_hangs_is_given_up(monkeypatch):
    hang = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: hang.wait(30))
    monkeypatch.setattr(weights, "FIRST_ANSWER_S", 0.3)
    assert "no answer in 0.3 s" in str(fails_soon("timm"))
    hang.set()


def test_the_limits_keep_the_promise():
    assert max(weights.FIRST_ANSWER_S, weights._STALLED_S) < 15
