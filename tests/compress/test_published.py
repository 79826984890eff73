"""Published weights come from a cache or are downloaded whole; where neither is possible, that is said soon."""

import hashlib
import http.server
import socket
import ssl
import threading
import time
import urllib.error
from email.message import Message
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor

from rrr_edge.bundle.sources import SOURCES
from rrr_edge.bundle.spec import ResNetSpec
from rrr_edge.compress import compress, published
from rrr_edge.compress.published import PUBLISHED, Published
from rrr_edge.compress.weights import check_weights, load_weights
from rrr_edge.errors import BadInput
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


@pytest.mark.parametrize("name", SOURCES)
def test_the_published_files_are_torchvisions_and_timms(name):
    files = PUBLISHED[name]
    known = getattr(torchvision.models, f"{SOURCES[name].name}_Weights")
    versions = {"imagenet": "IMAGENET1K_V1", "imagenet-v2": "IMAGENET1K_V2"}
    theirs = {ours: known[version].url for ours, version in versions.items() if version in known.__members__}
    assert {ours: files[ours].url for ours in files if ours != "timm"} == theirs
    config = timm.get_pretrained_cfg(name)
    assert files["timm"].hugging_face == config.hf_hub_id
    assert files["timm"].url == config.url.replace("/rwightman/", "/huggingface/")
    assert all(published._expected_digits(file) for file in files.values())


def refuse_all_connections(*args, **kwargs):
    raise AssertionError("the network was asked")


def test_a_file_in_torchs_cache_needs_no_network(caches, monkeypatch, good):
    monkeypatch.setattr(published.urllib.request, "urlopen", refuse_all_connections)
    caches.mkdir(parents=True)
    torch.save(good, caches / "unnamed.pth")
    digest = hashlib.sha256((caches / "unnamed.pth").read_bytes()).hexdigest()
    cached = (caches / "unnamed.pth").rename(caches / f"resnet152-{digest[:8]}.pth")
    monkeypatch.setitem(PUBLISHED["resnet152"], "imagenet", Published(f"http://127.0.0.1:9/{cached.name}"))
    found, info = load_weights("imagenet", depths=ONES)
    assert same(found, good)
    assert info == ("imagenet", digest, "")


def test_a_cached_file_that_is_not_what_its_name_says_is_refused(caches, good):
    caches.mkdir(parents=True)
    torch.save(good, caches / PUBLISHED["resnet152"]["imagenet"].file)
    with pytest.raises(
        BadInput, match=rf"{PUBLISHED['resnet152']['imagenet'].file} is damaged or another file"
    ) as caught:
        load_weights("imagenet", depths=ONES)
    assert caught.value.advice.startswith("Delete it")


def test_a_file_in_hugging_faces_cache_needs_no_network(tmp_path, monkeypatch, good):
    monkeypatch.setattr(published.urllib.request, "urlopen", refuse_all_connections)
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
            chosen = Published(f"http://127.0.0.1:{running.server_port}/{name}")
            monkeypatch.setitem(PUBLISHED["resnet152"], "imagenet", chosen)
            return chosen

        yield publish
        running.shutdown()


def test_a_download_is_checked_cached_and_reported(tmp_path, caches, server, good, monkeypatch):
    torch.save(good, tmp_path / "served.pth")
    body = (tmp_path / "served.pth").read_bytes()
    served = server(body)
    steps = []
    assert same(load_weights("imagenet", depths=ONES, on_progress=steps.append)[0], good)
    assert steps[-1].done == steps[-1].total == len(body)
    assert [file.name for file in caches.iterdir()] == [served.file]
    monkeypatch.setattr(published.urllib.request, "urlopen", refuse_all_connections)
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
    for act in (load_weights, check_weights):
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
        monkeypatch.setitem(PUBLISHED["resnet152"], "imagenet", Published(f"{closed}/x.pth"))
        assert "cannot be downloaded: connection refused." in str(fails_soon("imagenet"))
        monkeypatch.setenv("https_proxy", closed)
        assert "download.pytorch.org" in str(fails_soon("imagenet-v2"))
        mute.listen()
        monkeypatch.setattr(published, "_STALLED_S", 0.3)
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

    monkeypatch.setattr(published.urllib.request, "urlopen", fail)
    assert said in str(fails_soon("imagenet"))


def test_a_dead_network_is_known_before_the_photos_are_read(shapes, tmp_path, monkeypatch):
    monkeypatch.setattr(published.urllib.request, "urlopen", refuse_all_connections)
    monkeypatch.setattr("rrr_edge.compress.scan", None)
    with pytest.raises(BadInput, match="cannot be downloaded: the network was asked"):
        compress(shapes, tmp_path / "x.rrr")


def test_a_look_up_that_hangs_is_given_up(monkeypatch):
    hang = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: hang.wait(30))
    monkeypatch.setattr(published, "FIRST_ANSWER_S", 0.3)
    assert "no answer in 0.3 s" in str(fails_soon("timm"))
    hang.set()


def test_the_limits_keep_the_promise():
    assert max(published.FIRST_ANSWER_S, published._STALLED_S) < 15
