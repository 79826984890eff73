"""Published weights of the source networks: addresses, hashes, caches, downloads."""

import hashlib
import queue
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import try_to_load_from_cache
from torchvision.models import get_model_weights

from rrr_edge.bundle.files import sha256, staged_file, writing_to
from rrr_edge.bundle.sources import CLASSIFIERS
from rrr_edge.errors import BadInput
from rrr_edge.timing.progress import OnProgress, Step


class Published(NamedTuple):
    """A checkpoint on the net, with the first digits of its SHA-256 in its name."""

    url: str
    hugging_face: str = ""  # the repository whose copy in Hugging Face's cache serves as well

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


def _torchvisions(name: str) -> Published:
    return Published(f"https://download.pytorch.org/models/{name}.pth")


def _timms(name: str, hugging_face: str) -> Published:
    releases = "https://github.com/huggingface/pytorch-image-models/releases/download"
    return Published(f"{releases}/v0.1-rsb-weights/{name}.pth", f"timm/{hugging_face}")


def _named_by_torchvision(backbone: str) -> dict[str, Published]:
    names = {"IMAGENET1K_V1": "imagenet", "IMAGENET1K_V2": "imagenet-v2"}
    return {names[one.name]: Published(one.url) for one in get_model_weights(backbone) if one.name in names}


# By the network's key: torchvision's first and second recipes, and of ResNets timm's default.
PUBLISHED: dict[str, dict[str, Published]] = {
    "resnet18": {
        "imagenet": _torchvisions("resnet18-f37072fd"),
        "timm": _timms("resnet18_a1_0-d63eafa0", "resnet18.a1_in1k"),
    },
    "resnet34": {
        "imagenet": _torchvisions("resnet34-b627a593"),
        "timm": _timms("resnet34_a1_0-46f8f793", "resnet34.a1_in1k"),
    },
    "resnet50": {
        "imagenet": _torchvisions("resnet50-0676ba61"),
        "imagenet-v2": _torchvisions("resnet50-11ad3fa6"),
        "timm": _timms("resnet50_a1_0-14fe96d1", "resnet50.a1_in1k"),
    },
    "resnet101": {
        "imagenet": _torchvisions("resnet101-63fe2227"),
        "imagenet-v2": _torchvisions("resnet101-cd907fc2"),
        "timm": _timms("resnet101_a1h-36d3f2aa", "resnet101.a1h_in1k"),
    },
    "resnet152": {
        "imagenet": _torchvisions("resnet152-394f9c45"),
        "imagenet-v2": _torchvisions("resnet152-f82ba261"),
        "timm": _timms("resnet152_a1h-dc400468", "resnet152.a1h_in1k"),
    },
    **{backbone: _named_by_torchvision(backbone) for backbone in CLASSIFIERS},
}

FIRST_ANSWER_S = 12.0
_STALLED_S = 10.0
_CHUNK_BYTES = 1 << 20


def require_download(published: Published) -> None:
    """Raise BadInput, within seconds, where the file in a cache is damaged, or there is none and no download either."""
    if not _sound_copy(published):
        _answer(published).close()


def fetch(published: Published, on_progress: OnProgress) -> Path:
    """The published file in a cache, downloaded into torch's where neither has it. Raises BadInput."""
    path = _torchs_copy(published)
    if cached := _sound_copy(published):
        return cached
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    _download(published, path, on_progress)
    return path


def _sound_copy(published: Published) -> Path | None:
    """The file in a cache, if it is in one. Raises BadInput where it is damaged."""
    cached = _cached(published)
    if cached and not sha256(cached).startswith(_digits_of(cached, published)):
        raise BadInput(
            f"{cached} is damaged or another file: its SHA-256 does not begin as its name says.",
            advice="Delete it: it is downloaded again.",
        )
    return cached


def _digits_of(cached: Path, published: Published) -> str:
    """Digits with which the SHA-256 begins: Hugging Face's cache names the file that it links to by the whole of it."""
    if cached == _torchs_copy(published):
        return _expected_digits(published)
    name = cached.resolve().name
    return name if re.fullmatch(r"[0-9a-f]{64}", name) else ""


def _torchs_copy(published: Published) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / published.file


def _cached(published: Published) -> Path | None:
    """Where torch's cache or Hugging Face's has the file."""
    if _torchs_copy(published).is_file():
        return _torchs_copy(published)
    copy = published.hugging_face and try_to_load_from_cache(published.hugging_face, "model.safetensors")
    return Path(copy) if copy and isinstance(copy, str) else None


def _download(published: Published, path: Path, on_progress: OnProgress) -> None:
    digest, done = hashlib.sha256(), 0
    with _answer(published) as response, staged_file(path) as stage:
        total = int(response.headers.get("Content-Length") or 0)
        with stage.open("wb") as file:
            while chunk := _next_chunk(response, published):
                file.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                on_progress(Step("download weights", done, max(done, total), published.file))
        if done < total or not digest.hexdigest().startswith(_expected_digits(published)):
            raise _no_download(published, f"the {done:,} bytes that came are not the whole file")


def _answer(published: Published) -> Any:
    """The opened response. In a thread, since no timeout of Python's bounds the look-up of a host's name."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask() -> None:
        try:
            # Honours HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
            answers.put(urllib.request.urlopen(published.url, timeout=_STALLED_S))
        except Exception as error:  # to be raised where somebody waits
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=FIRST_ANSWER_S)
    except queue.Empty:
        raise _no_download(published, f"no answer in {FIRST_ANSWER_S:g} s") from None
    if isinstance(answer, Exception):
        raise _no_download(published, _plainly(answer)) from answer
    return answer


def _next_chunk(response: Any, published: Published) -> bytes:
    try:
        chunk: bytes = response.read(_CHUNK_BYTES)
    except Exception as error:  # a broken connection shows as OSError or as one of http.client's own
        raise _no_download(published, f"the connection broke ({_plainly(error)})") from error
    return chunk


def _plainly(error: Exception) -> str:
    """What urllib wraps, in words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} ({error.reason})"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, socket.gaierror):
        return "its host is not found, as where there is no network"
    if isinstance(reason, TimeoutError):
        return f"no answer in {_STALLED_S:g} s"
    if isinstance(reason, ssl.SSLError):
        return "no secure connection can be made"
    return (reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)).lower()


def _expected_digits(published: Published) -> str:
    digits = re.search(r"-([0-9a-f]{8,64})\.pth$", published.file)
    return digits[1] if digits else ""


def _no_download(published: Published, reason: str) -> BadInput:
    return BadInput(
        f"{published.url} cannot be downloaded: {reason}.",
        advice=f"Fetch it on another machine and give --weights {Path(published.url).name}, or use --weights random.",
    )
