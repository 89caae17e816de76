"""Downloads over a server on loopback."""

import hashlib
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from data_layouts import archive, class_folders, photos

from mist_avalanche.benchmarks.storage import download as _download
from mist_avalanche.benchmarks.storage import find as _find
from mist_avalanche.benchmarks.storage.catalog import IMAGENET_R, Remote
from mist_avalanche.benchmarks.storage.download import fetch
from mist_avalanche.benchmarks.storage.find import find

CONTENT = bytes(range(256)) * 5000


@pytest.fixture
def server(monkeypatch, tmp_path):
    """Serves ``content`` with byte ranges; ``cut`` ends every answer after so many bytes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state = self.server.state
            state["requests"].append(self.headers.get("Range"))
            match = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
            start = int(match[1]) if match and state["ranges"] else 0
            body = state["content"][start:]
            self.send_response(state["status"] or (206 if start else 200))
            self.send_header("Content-Type", state["type"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state["cut"]])

        def log_message(self, *_args):
            pass

    opened = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    opened.state = {
        "content": CONTENT,
        "cut": None,
        "ranges": True,
        "status": None,
        "type": "application/x-tar",
        "requests": [],
    }
    opened.url = f"http://127.0.0.1:{opened.server_address[1]}/file.tar"
    thread = threading.Thread(target=opened.serve_forever, daemon=True)
    thread.start()
    yield opened
    opened.shutdown()
    opened.server_close()


def remote(server, content=CONTENT, filename="file.tar"):
    digest = hashlib.sha256(content).hexdigest()
    return Remote(server.url, filename, len(content), f"sha256:{digest}", "classes")


def test_whole_file_under_its_own_name_only_when_whole(server, tmp_path):
    path = fetch(remote(server), tmp_path / "new", progress=False)
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.tar"]
    fetch(remote(server), tmp_path / "new", progress=False)
    assert len(server.state["requests"]) == 1
    path.write_bytes(CONTENT[:-1] + b"x")  # of the right size
    assert fetch(remote(server), tmp_path / "new", progress=False).read_bytes() == CONTENT
    assert path.with_name("file.tar.old").read_bytes()[-1:] == b"x"


@pytest.mark.parametrize("ranges", [True, False])
def test_goes_on_where_it_was_cut_off(server, tmp_path, ranges):
    server.state.update(cut=700_000)
    with pytest.raises(OSError, match="call again to go on"):
        fetch(remote(server), tmp_path, progress=False)
    assert [p.name for p in tmp_path.iterdir()] == [".file.tar.part"]
    server.state.update(cut=None, ranges=ranges)
    assert fetch(remote(server), tmp_path, progress=False).read_bytes() == CONTENT
    assert server.state["requests"] == [None, "bytes=700000-"]


def test_wrong_content_is_refused(server, tmp_path):
    for content in (CONTENT[:-1] + b"x", CONTENT + b"more"):
        server.state.update(content=content)
        with pytest.raises(ValueError, match=r"expected 1280000 bytes with .* Removed"):
            fetch(remote(server), tmp_path, progress=False)
        assert not list(tmp_path.iterdir())


def test_errors_of_the_server(server, tmp_path):
    server.state.update(type="text/html; charset=utf-8")
    with pytest.raises(OSError, match="is a web page"):
        fetch(remote(server), tmp_path, progress=False)
    server.state.update(status=404)
    with pytest.raises(OSError, match="404"):
        fetch(remote(server), tmp_path, progress=False)
    dead = replace(remote(server), url="http://127.0.0.1:9/file.tar")
    with pytest.raises(OSError, match="could not be fetched"):
        fetch(dead, tmp_path, progress=False)


def test_no_space(server, tmp_path, monkeypatch):
    huge = replace(remote(server), size=10**18)
    with pytest.raises(OSError, match=r"No space left.*file.tar.* needs"):
        fetch(huge, tmp_path, progress=False)
    assert not server.state["requests"]


def test_download_and_unpack(server, tmp_path):
    file = archive(class_folders(tmp_path / "imagenet-r", photos()), tmp_path / "served.tar")
    server.state.update(content=file.read_bytes())
    source = remote(server, file.read_bytes(), "imagenet-r.tar")
    facts = replace(IMAGENET_R, remote=source)
    root = tmp_path / "root"
    root.mkdir()
    (root / "imagenet-r.tar").write_text("an earlier download that was cut off")
    found = find(facts, root, download=True, progress=False)
    assert len(found.train) + len(found.test) == 60
    names = ["imagenet-r", "imagenet-r.tar", "imagenet-r.tar.old"]
    assert sorted(p.name for p in root.iterdir()) == names
    assert _find.split_name(facts, found).startswith("80/20 by name hash")
    for file, split, message in (
        (root / "imagenet-r.tar", "processed", "has the split 'hash', no other"),
        (tmp_path / "root2", "processed", "has the split 'hash', no other"),
    ):
        with pytest.raises(ValueError, match=message):
            find(facts, file, split=split, download=True, progress=False)
    assert len(server.state["requests"]) == 1
    assert _download._TIMEOUT > 0
