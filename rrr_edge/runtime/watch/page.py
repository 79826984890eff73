"""A page with the live picture and the answer over it, for browsers on this machine or, with a token, elsewhere."""

import base64
import hashlib
import ipaddress
import json
import re
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Any
from urllib.parse import quote

from rrr_edge.errors import CannotRunHere, MissingLibrary, UsageError
from rrr_edge.runtime.watch.results import StreamResult
from rrr_edge.runtime.watch.unsure import as_jpeg

_PAGE = Path(__file__).with_name("page.html")
_LONGEST, _QUALITY = 1280, 80
_TOKEN_CHARACTERS = 16
_AT_ONCE = 32
_STOP_S = 3.0
_JPEG = "image/jpeg"

Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class LivePage:
    """Serves what it was last called with. A context manager; `url` is there from the beginning, and has the token.

    `address` is HOST:PORT or PORT; without a host it is the loopback one. Any other host needs a token of 16 characters
    at least; one is made where none is given. `lost` says why there is no picture now, or "".

    GET / is the page. GET /picture is a JPEG of the newest frame, with its answer as JSON in the header `Answer`; 204
    where it is not newer than `after`. GET /answer is the JSON alone. A token is passed as `?token=` or as a bearer's.

    Raises UsageError, CannotRunHere (the address is taken), MissingLibrary.
    """

    def __init__(self, address: str, *, token: str | None = None, lost: Callable[[], str] = lambda: "") -> None:
        require_server()
        host, port = _parse(address)
        is_local = host == "localhost" or ipaddress.ip_address(host).is_loopback
        self._token = token if token is not None else "" if is_local else secrets.token_urlsafe(24)
        if (token is not None or not is_local) and len(self._token) < _TOKEN_CHARACTERS:
            raise UsageError(f"The page's token has less than {_TOKEN_CHARACTERS} characters.")
        self.lost = lost
        self._newest: tuple[StreamResult, float] | None = None
        self._encoded: tuple[int, bytes] = (-1, b"")
        self._lock = Lock()
        self._server = _server(self._app())
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            reason = f"The page cannot be served at {address}: {error.strerror}."
            raise CannotRunHere(reason, advice="Choose another port, or 0 for any that is free.") from error
        self.url = self._url(host)
        self._thread = Thread(target=self._server.run, args=([self._socket],), name="live page", daemon=True)

    def __call__(self, result: StreamResult) -> None:
        self._newest = result, time.monotonic()

    def __enter__(self) -> "LivePage":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(_STOP_S)
        self._socket.close()

    def _url(self, host: str) -> str:
        if host != "localhost" and ipaddress.ip_address(host).is_unspecified:
            host = socket.gethostname()
        name = f"[{host}]" if ":" in host else host
        query = f"?token={quote(self._token, safe='')}" if self._token else ""
        return f"http://{name}:{self._socket.getsockname()[1]}/{query}"

    def _app(self) -> Asgi:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import HTMLResponse, Response
        from starlette.routing import Route

        page = _PAGE.read_text("utf-8")
        headers = _headers(page)

        def root(request: Request) -> Response:
            return HTMLResponse(page, headers=headers)

        def answer(request: Request) -> Response:
            return Response(json.dumps(self._answer(self._newest)), headers=headers, media_type="application/json")

        def picture(request: Request) -> Response:
            newest = self._newest  # read once, for another may come at any moment
            said = headers | {"Answer": json.dumps(self._answer(newest))}
            if newest is None or str(newest[0].answer.frame.number) == request.query_params.get("after"):
                return Response(status_code=204, headers=said)
            return Response(self._picture(newest[0]), headers=said, media_type=_JPEG)

        routes = [Route("/", root), Route("/answer", answer), Route("/picture", picture)]
        return self._guarded(Starlette(routes=routes))

    def _guarded(self, app: Asgi) -> Asgi:
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            request = Request(scope)
            if not self._token:
                # Another site's name that was pointed at this address would let its scripts read the camera.
                allowed = _is_local_name(request.url.hostname or "")
            else:
                said = request.query_params.get("token") or request.headers.get("authorization", "")
                given = said.removeprefix("Bearer ").encode()
                allowed = secrets.compare_digest(given, self._token.encode())
            reply: Asgi = app if allowed else PlainTextResponse("This page needs its token.", 403)
            await reply(scope, receive, send)

        return guarded

    def _answer(self, newest: tuple[StreamResult, float] | None) -> dict[str, Any]:
        said: dict[str, Any] = {"lost": self.lost()}
        if newest is not None:
            result, at_s = newest
            pace = {"predict_ms": round(result.answer.predict_ms, 2), "fps": round(result.fps, 1)}
            said |= {**result.record(), **pace, "since_ms": round((time.monotonic() - at_s) * 1e3)}
        return said

    def _picture(self, result: StreamResult) -> bytes:
        """Encoded once for all who look."""
        frame = result.answer.frame
        with self._lock:
            if self._encoded[0] != frame.number:
                self._encoded = frame.number, as_jpeg(frame, quality=_QUALITY, longest=_LONGEST)
            return self._encoded[1]


def _server(app: Asgi) -> Any:
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            limit_concurrency=_AT_ONCE,
            timeout_graceful_shutdown=1,
        )
    )


def require_server() -> None:
    """Raises MissingLibrary."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingLibrary("uvicorn and Starlette", extra="camera", purpose="Serving a page") from error


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if port.isdecimal() and int(port) < 65536:
        try:
            return host if host == "localhost" else str(ipaddress.ip_address(host)), int(port)
        except ValueError:
            pass
    raise UsageError(
        f"{address!r} is no address to serve a page at.", advice="Say a port, or IP:PORT such as 127.0.0.1:8080."
    )


def _is_local_name(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _headers(page: str) -> dict[str, str]:
    def digest(tag: str) -> str:
        found = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        content = found[1] if found else ""
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    policy = (
        f"default-src 'none'; style-src {digest('style')}; script-src {digest('script')}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy,
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
