"""Fetch a published file, such as weights or a data set; none is given out whose hash is not the published one."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import responses
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import pooch
import requests
from tqdm.auto import tqdm

from minifcn.errors import MinifcnError

CACHE_VARIABLE = "MINIFCN_CACHE"
TRIES = 3  # of one address whose connection is cut; each starts anew
PAUSE = 1.0  # seconds before another try
LARGEST = 2 * 10**9  # bytes of a file whose size is not published
TIMEOUT = (10, 30)  # seconds: to connect, and for the next bytes to come
_CHUNK_SIZE = 2**16  # bytes; with pooch's own 1,024 nothing comes faster than about 35 MiB a second
_REASONS = (  # the first that an exception is, so the narrower ones come first
    (requests.exceptions.SSLError, "no secure connection; its certificate may not be trusted here"),
    (requests.exceptions.ProxyError, "the proxy does not let it through"),
    (requests.Timeout, "no answer in time"),
    (requests.ConnectionError, "no connection"),
    (requests.TooManyRedirects, "redirected in a circle"),
)


class Downloadable(Protocol):
    """What is known of a published file.

    name: what it is called here. file_name: what it is called in the folder. urls: where it is, the publisher's own
    address first. hash: "sha256:…", "sha1:…" or "md5:…"; "" where none is known. size: bytes, None if not known.
    """

    @property
    def name(self) -> str: ...

    @property
    def file_name(self) -> str: ...

    @property
    def urls(self) -> tuple[str, ...]: ...

    @property
    def hash(self) -> str: ...

    @property
    def size(self) -> int | None: ...


class _Failure(NamedTuple):
    reason: str
    is_cut: bool  # the file was coming, so that another try may get it


def cache_folder() -> Path:
    """Where downloads are kept: the folder that MINIFCN_CACHE names, else this system's folder for caches."""
    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("minifcn")).expanduser()


def _print(line: str) -> None:
    print(line, file=sys.stderr)


def download(
    published: Downloadable,
    folder: Path | None = None,
    *,
    error: type[MinifcnError],
    progress: bool = True,
    say: Callable[[str], None] = _print,
) -> Path:
    """The path of a published file in a folder, downloaded if it is not there or is damaged there.

    folder: by default cache_folder(). error: what is raised. progress: whether to show a bar. say: takes a line about
    each address.

    Each address is tried in turn, and up to three times if its connection is cut. A file comes under a temporary name
    and takes its own only once its hash is right; whatever happens, no part of one stays behind. Where no hash is
    known, which `say` is told, only web pages and empty answers are refused.

    Raises `error` if no address gives the file, with the reason of each, its hash, and where to put it by hand; or
    if the folder cannot be written.
    """
    path = (cache_folder() if folder is None else folder) / published.file_name
    hash_known = f"Its hash is {published.hash}" if published.hash else "Its hash is not known"
    failures = []
    try:
        if path.is_file():
            if not published.hash or _has_hash(path, published.hash):
                return path
            say(f"{path}: is damaged, for its hash is not {published.hash}; downloading it anew.")
        if not published.hash:
            say(f"{published.file_name}: its hash is not known, so it is taken as it comes.")
        for url in published.urls:
            failure = _fetch(url, path, published, progress, say)
            if failure is None:
                return path
            failures.append(f"{url}: {failure.reason}")
    except OSError as fault:
        reason = "permission denied" if isinstance(fault, PermissionError) else fault.strerror or fault
        raise error(
            f"{path}: cannot be downloaded ({reason}). Make room, or name another folder "
            f"(another one for the cache by the environment variable {CACHE_VARIABLE})."
        ) from None
    listed = "\n  ".join(failures)
    raise error(
        f"{published.name}: {published.file_name} cannot be downloaded:\n  {listed}\n{hash_known}. "
        f"Fetch it by other means and put it at {path}, or use it from where you have it."
    )


def _has_hash(path: Path, expected: str) -> bool:
    algorithm, _, digest = expected.partition(":")
    return bool(pooch.file_hash(str(path), alg=algorithm) == digest)


def _fetch(
    url: str, path: Path, published: Downloadable, progress: bool, say: Callable[[str], None]
) -> _Failure | None:
    """None once the verified file stands at `path`; else why this address does not give it."""
    size = f" ({published.size / 1e6:,.0f} MB)" if published.size else ""
    say(f"{published.file_name}{size}: from {url}")
    for tries_left in reversed(range(TRIES)):
        failure = _try(url, path, published, progress)
        if failure is None:
            return None
        try_again = failure.is_cut and tries_left > 0
        say(f"{failure.reason}; trying again." if try_again else f"{failure.reason}.")
        if not try_again:
            break
        time.sleep(PAUSE)
    return failure


def _try(url: str, path: Path, published: Downloadable, progress: bool) -> _Failure | None:
    downloader = _Downloader(published, progress)
    try:
        with _without_pooch_log():
            pooch.retrieve(url, published.hash or None, path.name, path.parent, downloader=downloader)
        return None
    except requests.RequestException as error:  # must come first: most of them are OSErrors, some are ValueErrors
        if downloader.received or isinstance(error, requests.exceptions.ChunkedEncodingError):
            return _Failure("the connection was cut", is_cut=True)
        if isinstance(error, requests.HTTPError) and error.response is not None:
            status = error.response.status_code
            return _Failure(f"HTTP {status} {responses.get(status, '')}".rstrip(), is_cut=False)
        fitting = (reason for kind, reason in _REASONS if isinstance(error, kind))
        return _Failure(next(fitting, "no usable answer"), is_cut=False)
    except ValueError:  # ours, pooch's for another hash, or urllib3's for a redirection to an impossible address
        return _Failure(downloader.what_came(), is_cut=False)


class _Downloader:
    """pooch's downloader with a bar. It remembers what came, since pooch deletes a file with another hash."""

    def __init__(self, published: Downloadable, progress: bool) -> None:
        self.published, self.progress = published, progress
        self.limit = published.size or LARGEST
        self.bounded: _Bounded | None = None
        self.received, self.beginning = 0, b""

    def __call__(self, url: str, output_file: str, _: object) -> None:
        # Not pooch's bar, which starts anew at its end to be full, and then shows a rate that never was.
        bar: dict[str, Any] = {
            "desc": self.published.file_name,
            "total": self.published.size,
            "bytes": False,  # not in units of 1024; the sizes that we print are not either
            "unit": "B",
            "unit_scale": True,
            "delay": 0.1,  # seconds; so there is none for an address that gives nothing
            "file": sys.stderr,
            "disable": not self.progress,
        }
        with open(output_file, "w+b") as file:
            self.bounded = _Bounded(file, self.limit)
            try:
                with tqdm.wrapattr(self.bounded, "write", **bar) as counted:
                    pooch.HTTPDownloader(chunk_size=_CHUNK_SIZE, timeout=TIMEOUT)(url, counted, None)
            finally:
                self.received = file.tell()
                file.seek(0)
                self.beginning = file.read(64)
        if not self.published.hash and (not self.received or self._is_page()):
            raise ValueError("no file came")

    def what_came(self) -> str:
        """In words, what came instead of the file."""
        if self._is_page():
            return "a web page came, not the file"
        if not self.received:
            return "no usable answer"
        if self.bounded is not None and self.bounded.room < 0:
            return f"more came than the file has, which ends at {self.limit:,} bytes"
        size = self.published.size
        expected = f" instead of {size:,}" if size and size != self.received else ""
        return f"another file came, of {self.received:,} bytes{expected}: its hash is wrong"

    def _is_page(self) -> bool:
        return self.beginning.lstrip().startswith(b"<")


class _Bounded:
    """A file that takes so many bytes and no more, so that an answer without end does not fill the disk."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self.file, self.room = file, limit

    def write(self, content: bytes) -> int:
        self.room -= len(content)
        if self.room < 0:
            raise ValueError("more came than the file has")
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


@contextmanager
def _without_pooch_log() -> Iterator[None]:
    """pooch tells of every download itself, to everybody's standard error."""
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
