"""Downloads, from a server on loopback that misbehaves as servers do: what comes is the published file, or nothing."""

import functools
import hashlib
import logging
import re
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path

import pooch
import pytest

from minifcn import downloads
from minifcn.downloads import TRIES, cache_folder
from minifcn.errors import DataError, WeightsError
from minifcn.weights.catalogue import CATALOGUE, Published, published_as
from minifcn.weights.preprocessing import CAFFE_FCN, PRESETS, TORCHVISION

download = functools.partial(downloads.download, error=WeightsError)

CONTENT = bytes(range(256)) * 1000
OTHER = CONTENT[:-1] + b"!"
HASHES = {name: hashlib.new(name, CONTENT).hexdigest() for name in ("sha256", "sha1", "md5")}
PAGE = b"\n<!DOCTYPE html><title>Virus scan warning</title>"


# The server: each path is an answer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        ANSWERS[self.path](self)

    def log_message(self, *_):
        pass

    def answer(self, content=b"", status=200, length=None, **headers):
        self.send_response(status)
        if length != 0:
            self.send_header("Content-Length", str(length or len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def pause_half_way(self):
        self.answer(CONTENT[: len(CONTENT) // 2], length=len(CONTENT))
        self.wfile.flush()
        time.sleep(0.2)
        self.wfile.write(CONTENT[len(CONTENT) // 2 :])

    def stall(self):
        self.wfile.flush()
        self.server.over.wait()

    def cut_once(self):
        is_first = self.server.requests.count(self.path) == 1
        self.answer(CONTENT[: len(CONTENT) // 2] if is_first else CONTENT, length=len(CONTENT))

    def stall_half_way(self):
        self.answer(CONTENT[: len(CONTENT) // 2], length=len(CONTENT))
        self.stall()

    def meet(self):
        self.server.meeting.wait()
        self.answer(CONTENT)


ANSWERS = {
    "/file": lambda handler: handler.answer(CONTENT),
    "/other": lambda handler: handler.answer(OTHER),
    "/page": lambda handler: handler.answer(PAGE, **{"Content-Type": "text/html"}),
    "/empty": lambda handler: handler.answer(),
    "/cut": lambda handler: handler.answer(CONTENT[:-1], length=len(CONTENT)),
    "/cut-early": lambda handler: handler.answer(CONTENT[:1], length=len(CONTENT)),
    "/cut-without-length": lambda handler: handler.answer(CONTENT[:1000], length=0),
    "/longer": lambda handler: handler.answer(CONTENT * 3),
    "/cut-once": Handler.cut_once,
    "/slow": Handler.pause_half_way,
    "/silent": Handler.stall,
    "/stall": Handler.stall_half_way,
    "/meet": Handler.meet,
    "/404": lambda handler: handler.answer(b"no", 404),
    "/500": lambda handler: handler.answer(b"no", 500),
    "/moved": lambda handler: handler.answer(status=302, Location="/file"),
    "/circle": lambda handler: handler.answer(status=302, Location="/circle"),
    "/nowhere": lambda handler: handler.answer(status=302, Location="http://.example/"),
}
FAILURES = {
    "/other": "another file came, of 256,000 bytes: its hash is wrong",
    "/page": "a web page came, not the file",
    "/empty": "no usable answer",
    "/cut": "the connection was cut",
    "/cut-early": "the connection was cut",
    "/cut-without-length": "another file came, of 1,000 bytes instead of 256,000: its hash is wrong",
    "/longer": "more came than the file has, which ends at 256,000 bytes",
    "/silent": "no answer in time",
    "/stall": "the connection was cut",
    "/404": "HTTP 404 Not Found",
    "/500": "HTTP 500 Internal Server Error",
    "/circle": "redirected in a circle",
    "/nowhere": "no usable answer",
}


NEVER_ENDING = ("/silent", "/stall")


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.over, self.meeting = [], threading.Event(), threading.Barrier(2)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_):
        pass  # a client that went away


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.over.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch):
    """No proxy, no other host; and no pauses."""
    genuine = socket.getaddrinfo

    def only_loopback(host, *arguments, **options):
        assert host in ("127.0.0.1", None), host
        return genuine(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", only_loopback)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(downloads, "PAUSE", 0)


def published(*urls, algorithm="sha256", size: int | None = 256_000):
    digest = f"{algorithm}:{HASHES[algorithm]}" if algorithm else ""
    return Published("vgg16-test", "vgg16.bin", "a test", urls, digest, size, TORCHVISION, "none")


def refused(cache, *urls):
    """The message after a failure, which must leave nothing behind, and says what a person needs to help himself."""
    lines = []
    with pytest.raises(WeightsError) as caught:
        download(published(*urls), cache, progress=False, say=lines.append)
    message = str(caught.value)
    assert list(cache.iterdir()) == []
    assert "vgg16-test: vgg16.bin cannot be downloaded" in message
    assert f"sha256:{HASHES['sha256']}" in message
    assert f"put it at {cache / 'vgg16.bin'}, or use it from where you have it" in message
    assert all(f"\n  {url}: " in message for url in urls)
    return message, lines


@pytest.mark.parametrize("algorithm", HASHES)
def test_the_right_file_comes_into_the_cache(server, tmp_path, algorithm):
    """Another name, a folder that has to be there before, a hash of another kind refused; chatter."""
    cache, lines = tmp_path / "new" / "cache", []
    path = download(published(f"{server.address}/file", algorithm=algorithm), cache, progress=False, say=lines.append)
    assert path == cache / "vgg16.bin"
    assert path.read_bytes() == CONTENT
    assert list(cache.iterdir()) == [path]
    assert lines == [f"vgg16.bin (0 MB): from {server.address}/file"]


def test_a_file_in_the_cache_is_not_fetched_again(server, tmp_path):
    """553 MB at every call."""
    wanted, lines = published(f"{server.address}/file"), []
    first = download(wanted, tmp_path, progress=False, say=lines.append)
    lines.clear()
    assert download(wanted, tmp_path, progress=False, say=lines.append) == first
    assert server.requests == ["/file"]
    assert lines == []


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], OTHER])
def test_a_damaged_file_in_the_cache_is_fetched_anew(server, tmp_path, damaged):
    """A file that was cut off, or changed in one byte, given out because its name is right."""
    (tmp_path / "vgg16.bin").write_bytes(damaged)
    lines = []
    path = download(published(f"{server.address}/file"), tmp_path, progress=False, say=lines.append)
    assert path.read_bytes() == CONTENT
    assert str(path) in lines[0]
    assert "damaged" in lines[0]


@pytest.mark.parametrize(("path", "reason"), FAILURES.items())
def test_what_is_not_the_file_is_refused_with_its_reason(server, tmp_path, monkeypatch, path, reason):
    """A web page kept as weights; half a file under the final name; a bare ValueError or OSError of a library."""
    if path in NEVER_ENDING:
        monkeypatch.setattr(downloads, "TIMEOUT", (30, 0.5))
    message, lines = refused(tmp_path, f"{server.address}{path}")
    assert f"{server.address}{path}: {reason}\n" in message
    assert lines[-1] == f"{reason}."


@pytest.mark.parametrize("path", ["/other", "/page"])
def test_a_file_of_unknown_size_is_checked_too(server, tmp_path, path):
    """A message that needs the size; or no check without it."""
    with pytest.raises(WeightsError, match=f"{path}: (another file came, of 256,000 bytes: its hash|a web page came)"):
        download(published(f"{server.address}{path}", size=None), tmp_path, progress=False, say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("path", "reason"), [("/page", "a web page came"), ("/empty", "no usable answer")])
def test_without_a_known_hash_what_is_no_file_is_refused(server, tmp_path, path, reason):
    """A login page kept as a data set, since there was nothing to compare it with."""
    with pytest.raises(WeightsError, match=f"(?s){path}: {reason}.*Its hash is not known"):
        download(published(server.address + path, algorithm=""), tmp_path, progress=False, say=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_without_a_known_hash_the_user_is_told(server, tmp_path):
    """A file that nobody checked, handed out like one that was."""
    wanted, lines = published(f"{server.address}/file", algorithm=""), []
    path = download(wanted, tmp_path, progress=False, say=lines.append)
    assert path.read_bytes() == CONTENT
    assert lines[0] == "vgg16.bin: its hash is not known, so it is taken as it comes."
    lines.clear()
    assert download(wanted, tmp_path, progress=False, say=lines.append) == path
    assert (lines, server.requests) == ([], ["/file"])


def test_the_error_is_of_the_class_that_was_asked_for(server, tmp_path):
    """A data set that cannot be fetched, reported as a fault of weights."""
    with pytest.raises(DataError, match="HTTP 404"):
        downloads.download(published(f"{server.address}/404"), tmp_path, error=DataError, say=lambda _: None)


@pytest.mark.parametrize("path", FAILURES)
def test_after_any_failure_the_next_address_is_tried(server, tmp_path, monkeypatch, path):
    """A failure that ends it all, though another address has the file."""
    if path in NEVER_ENDING:
        monkeypatch.setattr(downloads, "TIMEOUT", (30, 0.5))
    lines = []
    urls = (f"{server.address}{path}", f"{server.address}/file", f"{server.address}/404")
    got = download(published(*urls), tmp_path, progress=False, say=lines.append)
    assert got.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [got]
    assert server.requests[-1] == "/file"
    assert f"vgg16.bin (0 MB): from {server.address}/file" in lines


def test_a_cut_connection_is_tried_again_from_the_start(server, tmp_path):
    """Giving up at the first cut; or appending the whole file to its first half."""
    lines = []
    path = download(published(f"{server.address}/cut-once"), tmp_path, progress=False, say=lines.append)
    assert path.read_bytes() == CONTENT
    assert server.requests == ["/cut-once"] * 2
    assert lines[1:] == ["the connection was cut; trying again."]


@pytest.mark.parametrize(
    ("path", "tries"), [("/cut", TRIES), ("/cut-early", TRIES), ("/404", 1), ("/other", 1), ("/page", 1), ("/empty", 1)]
)
def test_only_a_cut_connection_is_tried_again(server, tmp_path, path, tries):
    """Trying for ever; or fetching the same wrong 553 MB three times."""
    refused(tmp_path, f"{server.address}{path}", f"{server.address}/404")
    assert server.requests == [path] * tries + ["/404"]


def test_a_redirect_is_followed(server, tmp_path):
    """GitHub and Hugging Face answer with another address."""
    path = download(published(f"{server.address}/moved"), tmp_path, progress=False, say=lambda _: None)
    assert path.read_bytes() == CONTENT
    assert server.requests == ["/moved", "/file"]


def test_offline_the_message_names_every_address_the_hash_and_the_place(tmp_path):
    """ "Max retries exceeded with url" and a traceback: nothing to go on with."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # taken, but nobody listens
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        message, lines = refused(tmp_path, f"{address}/a", f"{address}/b")
    assert f"\n  {address}/a: no connection\n  {address}/b: no connection\n" in message
    assert not any("trying again" in line for line in lines)


def test_a_server_that_is_not_secure_is_no_server(tmp_path):
    """An SSLError; or falling back to a connection that anybody can change."""

    class Plain(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.recv(1)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Plain) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"https://127.0.0.1:{server.server_address[1]}/file"
        message, _ = refused(tmp_path, url)
        thread.join()
    assert f"{url}: no secure connection" in message


def test_a_file_put_into_the_cache_by_hand_is_taken(tmp_path):
    """The remedy that the message gives does not work."""
    (tmp_path / "vgg16.bin").write_bytes(CONTENT)
    assert download(published("http://127.0.0.1:9/"), tmp_path).read_bytes() == CONTENT


def test_an_interruption_leaves_nothing_behind(server, tmp_path, monkeypatch):
    """Ctrl-C half-way: a temporary file that nobody ever deletes, or taken for another mirror's failure."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(downloads.tqdm, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(published(*[f"{server.address}/file"] * 2), tmp_path, say=lambda _: None)
    assert server.requests == ["/file"]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_it_and_leaves_nothing_behind(server, tmp_path):
    """Trying the next address on the same full disk; half a file left on it."""
    resource = pytest.importorskip("resource", reason="limits on the size of files are set the POSIX way")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(WeightsError, match=r"vgg16\.bin: .*File too large.* MINIFCN_CACHE"):
            download(published(*[f"{server.address}/file"] * 2), tmp_path, progress=False, say=lambda _: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert server.requests == ["/file"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cache", ["file", "file/below", "folder"])
def test_a_cache_that_cannot_be_written_is_named_with_the_remedy(server, tmp_path, cache):
    """NotADirectoryError, FileExistsError, IsADirectoryError."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder" / "vgg16.bin").mkdir(parents=True)
    wanted = published(f"{server.address}/file", f"{server.address}/file")
    with pytest.raises(
        WeightsError, match=rf"{re.escape(str(tmp_path / cache))}.* name another folder .*MINIFCN_CACHE"
    ):
        download(wanted, tmp_path / cache, progress=False, say=lambda _: None)


def test_two_downloads_at_once_do_not_disturb_each_other(server, tmp_path):
    """Both write into one temporary file, or the second finds the first one's half."""
    paths = []

    def one():
        paths.append(download(published(f"{server.address}/meet"), tmp_path, progress=False, say=lambda _: None))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [tmp_path / "vgg16.bin"] * 2
    assert server.requests == ["/meet"] * 2
    assert paths[0].read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == paths[:1]


@pytest.mark.parametrize("size", [len(CONTENT), None])
def test_a_bar_is_shown_unless_it_is_switched_off(server, tmp_path, capsys, size):
    """A bar in a log file; none in a terminal; empty ones for dead addresses; one for which the size must be known."""
    wanted = published(f"{server.address}/404", f"{server.address}/slow", size=size)
    download(wanted, tmp_path / "quiet", progress=False)
    name = "vgg16.bin (0 MB)" if size else "vgg16.bin"
    before = [f"{name}: from {server.address}/404", "HTTP 404 Not Found.", f"{name}: from {server.address}/slow"]
    assert capsys.readouterr().err.splitlines() == before
    download(wanted, tmp_path / "bar")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[:3] == before  # no bar for an address that gives nothing
    assert "256k" in captured.err.splitlines()[-1]
    assert captured.err.endswith("\n")  # what is printed next begins a line of its own


def test_pooch_keeps_quiet_and_stays_as_it_was(server, tmp_path, monkeypatch, caplog):
    """A second line about every download; or pooch silenced for the rest of the program."""
    logger = pooch.get_logger()
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    logger.addHandler(caplog.handler)
    try:
        download(published(f"{server.address}/404", f"{server.address}/file"), tmp_path, progress=False)
    finally:
        logger.removeHandler(caplog.handler)
    assert caplog.records == []
    assert logger.level == logging.DEBUG


def test_the_cache_is_where_the_environment_says(server, tmp_path, monkeypatch):
    """A home folder with a small quota, and no way to put 553 MB elsewhere."""
    monkeypatch.setenv("MINIFCN_CACHE", str(tmp_path / "elsewhere"))
    path = download(published(f"{server.address}/file"), progress=False, say=lambda _: None)
    assert path == tmp_path / "elsewhere" / "vgg16.bin"
    monkeypatch.setenv("MINIFCN_CACHE", "~/elsewhere")
    assert cache_folder() == Path.home() / "elsewhere"
    for unset in (lambda: monkeypatch.setenv("MINIFCN_CACHE", ""), lambda: monkeypatch.delenv("MINIFCN_CACHE")):
        unset()
        assert cache_folder() == Path(pooch.os_cache("minifcn"))


# The catalogue


@pytest.mark.parametrize("name", CATALOGUE)
def test_entries_are_well_formed(name):
    """A hash with a digit lost, an address without its scheme, a file name that leaves the cache folder."""
    entry = CATALOGUE[name]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", name)
    assert entry.name == name
    assert re.fullmatch(r"sha256:[0-9a-f]{64}|sha1:[0-9a-f]{40}|md5:[0-9a-f]{32}", entry.hash)
    assert entry.urls
    assert all(re.fullmatch(r"https?://[\w.-]+/[\w./~?=&-]+", url) for url in entry.urls)
    assert re.fullmatch(r"\w[\w.-]+\.(pth|safetensors|caffemodel|h5)", entry.file_name)
    assert entry.size is None or entry.size > 500e6  # all of them hold fc6
    assert entry.preprocessing in PRESETS.values()
    assert entry.what
    assert "\n" not in entry.what
    assert entry.licence


def test_no_two_entries_are_one():
    """The same file listed twice; two files that replace each other in the cache, on disks that ignore case too."""
    entries = CATALOGUE.values()
    urls = [url for entry in entries for url in entry.urls]
    for unique in ([entry.hash for entry in entries], [entry.file_name.lower() for entry in entries], urls):
        assert len(unique) == len(set(unique))


def test_torchvisions_hashes_begin_as_its_file_names_say():
    """A hash copied from another line: torchvision puts the first eight digits into the name."""
    digits = {}
    for entry in CATALOGUE.values():
        if found := re.search(r"-([0-9a-f]{8})\.pth$", entry.file_name):
            digits[entry.hash.removeprefix("sha256:")[:8]] = found[1]
    assert len(digits) >= 4
    assert all(of_hash == of_name for of_hash, of_name in digits.items())


def test_a_file_is_known_by_its_hash_whatever_its_name():
    """vgg16_from_caffe.pth, which has torchvision's names, given torchvision's pictures."""
    for entry in CATALOGUE.values():
        algorithm, digest = entry.hash.split(":")
        assert published_as({"crc32": "0", algorithm: digest}) is entry
    found = published_as({"sha256": "0" * 64, "md5": "aa75b158f4181e7f6230029eb96c1b13"})
    assert found is CATALOGUE["vgg16-from-caffe"]
    assert found.preprocessing == CAFFE_FCN
    assert CATALOGUE["vgg16-torchvision"].preprocessing == TORCHVISION


def test_other_files_are_not_known():
    """None equal to a missing hash; an MD5 compared with a SHA-256."""
    assert published_as({}) is None
    assert published_as({"sha256": "0" * 64, "md5": "0" * 32}) is None
    assert published_as({"sha256": "aa75b158f4181e7f6230029eb96c1b13"}) is None


def test_what_is_too_much_is_not_written():
    """An answer without end that fills the disk before its hash is looked at."""
    file = BytesIO()
    bounded = downloads._Bounded(file, 10)
    bounded.write(b"x" * 10)
    with pytest.raises(ValueError, match="more came"):
        bounded.write(b"y")
    assert file.getvalue() == b"x" * 10
