"""No command writes into a home or calls anybody: telemetry is off before the libraries that have it are imported."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rrr_edge.bundle.folder import Bundle

# Notes every call by which a program or its libraries, whatever they are written in, reach for the internet.
WATCH = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *call, const struct sockaddr *to) {
  if (to && to->sa_family != AF_INET && to->sa_family != AF_INET6) return;
  int file = open(getenv("CALLS"), O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (file < 0 || write(file, call, strlen(call)) < 0 || write(file, "\n", 1) < 0) abort();
  close(file);
}
#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int connect(int s, const struct sockaddr *to, socklen_t n) { note("connect", to); return NEXT(connect)(s, to, n); }
ssize_t sendto(int s, const void *b, size_t n, int f, const struct sockaddr *to, socklen_t l) {
  if (to) note("sendto", to);
  return NEXT(sendto)(s, b, n, f, to, l);
}
ssize_t sendmsg(int s, const struct msghdr *m, int f) {
  if (m->msg_name) note("sendmsg", m->msg_name);
  return NEXT(sendmsg)(s, m, f);
}
int sendmmsg(int s, struct mmsghdr *m, unsigned n, int f) {
  if (n && m->msg_hdr.msg_name) note("sendmmsg", m->msg_hdr.msg_name);
  return NEXT(sendmmsg)(s, m, n, f);
}
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  note(node ? node : "getaddrinfo", 0);
  return NEXT(getaddrinfo)(node, service, hints, found);
}
struct hostent *gethostbyname(const char *name) { note(name, 0); return NEXT(gethostbyname)(name); }
"""
# Each in its turn, in one process; a moment for what libraries do in threads of their own.
COMMANDS = """
import json, sys, time
from rrr_edge.cli.app import app, require_home
require_home()
for words in json.loads(sys.argv[1]):
    try:
        app(words)
    except SystemExit as end:
        assert not end.code, words
import onnxsim, huggingface_hub  # which compress imports, beside much that has no telemetry
assert {"onnxruntime", "openvino"} <= sys.modules.keys()
time.sleep(0.5)
"""


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("without a C compiler it is not seen whom libraries call")
    folder = tmp_path_factory.mktemp("watch")
    (folder / "watch.c").write_text(WATCH)
    words = [compiler, "-shared", "-fPIC", "-o", folder / "watch.so", folder / "watch.c", "-ldl"]
    subprocess.run(words, check=True)
    return folder / "watch.so"


def run(watch: Path, home: Path, code: str, *arguments: str) -> Sequence[str]:
    """The calls of `code`, in a namespace without a route where this machine lets one be made."""
    home.mkdir()
    alone = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        alone = []
    environment = {
        "HOME": str(home),
        "CALLS": str(home.with_name("calls.txt")),
        "LD_PRELOAD": str(watch),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
        "XDG_CACHE_HOME": str(home.with_name("cache")),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    words = [*alone, sys.executable, "-c", code, *arguments]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    calls = home.with_name("calls.txt")
    return calls.read_text().splitlines() if calls.exists() else []


def test_the_watch_sees_calls(watch: Path, tmp_path: Path) -> None:
    code = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect_ex(('127.0.0.1', 9))\n"
        "try: socket.getaddrinfo('a.invalid', 80)\nexcept OSError: pass\n"
    )
    assert run(watch, tmp_path / "home", code) == ["connect", "a.invalid"]


def test_no_command_calls_anybody_or_writes_into_an_empty_home(
    watch: Path, compiled: Bundle, shapes: Path, tmp_path: Path
) -> None:
    photo = shapes / "test" / "cross" / "0.png"
    commands = [
        *(("predict", compiled.path, photo, "-t", target) for target in ("openvino", "onnxruntime")),
        ("compile", compiled.path, "-t", "openvino", "--precision", "int8", "--dry-run"),
        ("doctor", compiled.path),
        ("targets",),
    ]
    words = json.dumps([[str(word) for word in command] for command in commands])
    assert run(watch, tmp_path / "home", COMMANDS, words) == []
    assert list((tmp_path / "home").rglob("*")) == []
