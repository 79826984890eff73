"""Cameras made of nothing: RTSP (H.264 over TCP) and MJPEG over HTTP on the loopback interface.

Every frame has its number and the time of its capture (`time.monotonic`, which all processes share) in its pixels, as
blocks of black and white that survive compression. A camera can freeze and be killed. As a program:

    python tests/cameras.py rtsp|http [--port 0] [--fps 25]
"""

import argparse
import base64
import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from types import TracebackType

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 320, 240
_COLUMNS, _ROWS = 16, 4
_NUMBER_BITS = 24
_BLOCK = WIDTH // 20


def draw(number: int, captured_s: float) -> np.ndarray:
    """A frame with its number and time of capture; below them a gradient that moves."""
    word = number << 40 | round(captured_s * 1e3) & (1 << 40) - 1
    bits = np.array([word >> bit & 1 for bit in range(64)], np.uint8).reshape(_ROWS, _COLUMNS)
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:] = ((np.arange(WIDTH) + 4 * number) % 256)[None, :, None]
    pixels[: _ROWS * _BLOCK, : _COLUMNS * _BLOCK] = np.kron(bits * 255, np.ones((_BLOCK, _BLOCK), np.uint8))[..., None]
    return pixels


def read(pixels: np.ndarray) -> tuple[int, float]:
    """The number of a frame, and the time of its capture in seconds, at any scale."""
    block = pixels.shape[1] / 20
    centres = ((np.arange(_COLUMNS) + 0.5) * block).astype(int)
    bits = pixels[np.ix_(centres[:_ROWS], centres)].mean(axis=2) > 127
    word = sum(1 << i for i, bit in enumerate(bits.ravel().tolist()) if bit)
    return word >> 40, (word & (1 << 40) - 1) / 1e3


class Camera:
    """Sends `fps` frames a second to whoever asks. Those that cannot be sent in time are left out, as a camera does."""

    def __init__(self, *, port: int = 0, fps: float = 25, login: str = "") -> None:
        self.fps, self.login = fps, login
        self.port = port
        self.running = threading.Event()
        self.running.set()
        self._clients: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.start()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def freeze(self) -> None:
        """Connections stay, and nothing comes."""
        self.running.clear()

    def thaw(self) -> None:
        self.running.set()

    def kill(self) -> None:
        """Every connection ends at once, and new ones are refused."""
        assert self._listener
        listener, self._listener = self._listener, None
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for client in list(self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "Camera":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thaw()
        if self._listener:
            self.kill()

    def ticks(self) -> Iterator[tuple[int, float]]:
        """The number and the time of each frame, at its time. A number is never given twice, by any camera."""
        number = 0
        while True:
            number = max(number + 1, int(time.monotonic() * self.fps))
            time.sleep(max(0.0, number / self.fps - time.monotonic()))
            if not self.running.is_set():
                self.running.wait()
                continue
            yield number, time.monotonic()

    def serve(self, client: socket.socket) -> None:
        raise NotImplementedError

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        self._clients.add(client)
        try:
            with client, contextlib.suppress(OSError):
                self.serve(client)
        finally:
            self._clients.discard(client)

    def _is_known(self, request: str) -> bool:
        return not self.login or f"Basic {base64.b64encode(self.login.encode()).decode()}" in request


class HttpCamera(Camera):
    """MJPEG, as parts of one endless answer."""

    @property
    def address(self) -> str:
        return f"http://{self.login + '@' if self.login else ''}127.0.0.1:{self.port}/video.mjpg"

    def serve(self, client: socket.socket) -> None:
        request = client.recv(4096).decode()
        self.running.wait()
        if not self._is_known(request):
            client.sendall(
                b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'
            )
            return
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for number, captured_s in self.ticks():
            file = io.BytesIO()
            Image.fromarray(draw(number, captured_s)).save(file, "JPEG", quality=85)
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {file.tell()}\r\n\r\n"
            client.sendall(head.encode() + file.getvalue() + b"\r\n")


class RtspCamera(Camera):
    """H.264 with a key frame each second, in RTP over the connection that it is asked for on."""

    @property
    def address(self) -> str:
        return f"rtsp://{self.login + '@' if self.login else ''}127.0.0.1:{self.port}/live"

    def serve(self, client: socket.socket) -> None:
        file = client.makefile("rb")
        while head := file.read(1):
            if head == b"$":  # a receiver's report
                file.read(int.from_bytes(file.read(3)[1:], "big"))
                continue
            request = (head + b"".join(iter(file.readline, b"\r\n"))).decode()
            self.running.wait()
            method = request.split()[0]
            fields = dict(line.split(": ", 1) for line in request.splitlines()[1:] if ": " in line)
            code, extra, body = "200 OK", "", ""
            if not self._is_known(request):
                code, extra = "401 Unauthorized", 'WWW-Authenticate: Basic realm="x"\r\n'
            elif method == "OPTIONS":
                extra = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = self._description()
                extra = f"Content-Type: application/sdp\r\nContent-Base: rtsp://127.0.0.1:{self.port}/live/\r\n"
            elif method == "SETUP":
                extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
            elif method == "PLAY":
                extra = "Session: 1\r\n"
            reply = (
                f"RTSP/1.0 {code}\r\nCSeq: {fields.get('CSeq', 0)}\r\n{extra}Content-Length: {len(body)}\r\n\r\n{body}"
            )
            client.sendall(reply.encode())
            if method == "PLAY":
                threading.Thread(target=self._play, args=(client,), daemon=True).start()
            if method == "TEARDOWN":
                return

    def _description(self) -> str:
        units = _units(Encoder(self.fps).encode(draw(0, 0)))
        sets = ",".join(base64.b64encode(unit).decode() for unit in units if unit[0] & 31 in (7, 8))
        lines = (
            *("v=0", "o=- 0 0 IN IP4 127.0.0.1", "s=camera", "t=0 0", "m=video 0 RTP/AVP 96"),
            *("a=rtpmap:96 H264/90000", f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}"),
            "a=control:track0",
        )
        return "\r\n".join(lines) + "\r\n"

    def _play(self, client: socket.socket) -> None:
        encoder, sequence = Encoder(self.fps), 0
        with contextlib.suppress(OSError):
            for number, captured_s in self.ticks():
                stamp = int(captured_s * 90_000) & 0xFFFFFFFF
                payloads = list(_payloads(_units(encoder.encode(draw(number, captured_s)))))
                sent = b""
                for last, payload in enumerate(payloads, 1 - len(payloads)):
                    sequence = (sequence + 1) & 0xFFFF
                    head = bytes((0x80, 96 | (0x80 if last == 0 else 0))) + sequence.to_bytes(2, "big")
                    packet = head + stamp.to_bytes(4, "big") + b"\0\0\0\1" + payload
                    sent += b"$\0" + len(packet).to_bytes(2, "big") + packet
                client.sendall(sent)


class Encoder:
    def __init__(self, fps: float) -> None:
        import av

        self._codec = av.CodecContext.create("libx264", "w")
        self._codec.width, self._codec.height, self._codec.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        self._codec.framerate = Fraction(fps).limit_denominator(1000)
        self._codec.time_base = 1 / self._codec.framerate
        self._codec.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "crf": "20",
            "x264-params": f"keyint={max(1, round(fps))}:scenecut=0:repeat-headers=1:threads=1",
        }
        self._pts = 0

    def encode(self, pixels: np.ndarray) -> bytes:
        import av

        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts, self._pts = self._pts, self._pts + 1
        return b"".join(bytes(packet) for packet in self._codec.encode(frame))


def _units(stream: bytes) -> list[bytes]:
    """The NAL units of H.264 in Annex B's form."""
    return [part.rstrip(b"\0") for part in stream.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if part]


def _payloads(units: list[bytes], size: int = 1400) -> Iterator[bytes]:
    """RTP payloads (RFC 6184): a unit each, or fragments of one."""
    for unit in units:
        if len(unit) <= size:
            yield unit
            continue
        pieces = [unit[1:][i : i + size] for i in range(0, len(unit) - 1, size)]
        for i, piece in enumerate(pieces):
            mark = (0x80 if i == 0 else 0) | (0x40 if i == len(pieces) - 1 else 0)
            yield bytes((unit[0] & 0xE0 | 28, unit[0] & 31 | mark)) + piece


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("rtsp", "http"))
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fps", type=float, default=25)
    asked = parser.parse_args()
    camera = (RtspCamera if asked.kind == "rtsp" else HttpCamera)(port=asked.port, fps=asked.fps)
    print(camera.address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
