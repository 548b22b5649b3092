"""Weights that others have published: where they are, by which hash they are known, and which pictures they expect.

Nothing here is a weight: each file keeps its publisher's licence, and is fetched from where it was published.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from minifcn.weights.preprocessing import CAFFE_FCN, CAFFE_VGG, TORCHVISION, Preprocessing


@dataclass(frozen=True)
class Published:
    """A weight file that somebody has published.

    name: what it is called here. file_name: what it is called in the cache. what: one line for a list. urls: where it
    is, the publisher's own address first. hash: "sha256:…"; "md5:…" or "sha1:…" where no other is known. size: bytes,
    None if not known. preprocessing: how pictures became inputs when it was trained. licence: the publisher's.
    architecture: the network's name, where its tensors cannot tell.
    """

    name: str
    file_name: str
    what: str
    urls: tuple[str, ...]
    hash: str
    size: int | None
    preprocessing: Preprocessing
    licence: str
    architecture: str = ""


def published_as(hashes: Mapping[str, str]) -> Published | None:
    """The entry that a file at hand is, told by its hashes, such as {"sha256": …, "md5": …}; None if it is none.

    Some cannot be told by what is in them: vgg16-from-caffe has torchvision's names, but expects Caffe's pictures.
    """
    for published in CATALOGUE.values():
        algorithm, _, digest = published.hash.partition(":")
        if hashes.get(algorithm) == digest:
            return published
    return None


def _hugging_face(path: str) -> tuple[str, ...]:
    """A file on Hugging Face, of one commit, and in the mirror that answers where Hugging Face does not."""
    return f"https://huggingface.co/{path}", f"https://hf-mirror.com/{path}"


def _google_drive(file_id: str) -> tuple[str, ...]:
    """A shared file on Google Drive. For a large one the second address may give a warning page; the hash tells."""
    return (
        f"https://drive.usercontent.google.com/download?id={file_id}&export=download&confirm=t",
        f"https://drive.google.com/uc?id={file_id}",
    )


_TORCHVISION = "https://download.pytorch.org/models"
_KERAS = "vgg16_weights_tf_dim_ordering_tf_kernels.h5"
_VGG_TEAM = "www.robots.ox.ac.uk/~vgg/software/very_deep/caffe/VGG_ILSVRC_16_layers.caffemodel"
_BERKELEY = "http://dl.caffe.berkeleyvision.org"
_BSD, _CC_BY, _BVLC = "BSD-3-Clause", "CC BY 4.0", "unrestricted (BVLC)"

_ENTRIES = (
    Published(
        "vgg16-torchvision",
        "vgg16-397923af.pth",
        "VGG-16 classifier, trained by torchvision",
        (
            f"{_TORCHVISION}/vgg16-397923af.pth",
            "https://huggingface.co/ByteDance/LatentSync-1.5/resolve/32a20d29aead0498e3e885e90dbbe8027da1b61b/"
            "auxiliary/vgg16-397923af.pth",
        ),
        "sha256:397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        553_433_881,
        TORCHVISION,
        _BSD,
    ),
    Published(
        "vgg16-bn-torchvision",
        "vgg16_bn-6c64b313.pth",
        "VGG-16 classifier with batch normalisation, trained by torchvision",
        (f"{_TORCHVISION}/vgg16_bn-6c64b313.pth",),
        "sha256:6c64b3138f2f4fcb3bcc4cafde11619c4f440eb1631787e93a682fd88305888a",
        553_507_836,
        TORCHVISION,
        _BSD,
    ),
    Published(
        "vgg19-torchvision",
        "vgg19-dcbb9e9d.pth",
        "VGG-19 classifier, trained by torchvision",
        (f"{_TORCHVISION}/vgg19-dcbb9e9d.pth",),
        "sha256:dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        574_673_361,
        TORCHVISION,
        _BSD,
    ),
    Published(
        "vgg19-bn-torchvision",
        "vgg19_bn-c79401a0.pth",
        "VGG-19 classifier with batch normalisation, trained by torchvision",
        (f"{_TORCHVISION}/vgg19_bn-c79401a0.pth",),
        "sha256:c79401a0cf3cb42714e4182f5868c7a6f4f4534f5df9e956e2bb2098de41cbb6",
        574_769_405,
        TORCHVISION,
        _BSD,
    ),
    Published(
        "vgg11-timm",
        "vgg11.tv_in1k.safetensors",
        "VGG-11 classifier, trained by torchvision, in timm's file",
        _hugging_face("timm/vgg11.tv_in1k/resolve/38b46049b490ec2bdb6d4d32b8354c74977f3347/model.safetensors"),
        "sha256:682c023808812148d4e60c76d80ad83dbeaf5d50eb1a952a0b836895003151e5",
        None,
        TORCHVISION,
        _BSD,
    ),
    Published(
        "vgg13-bn-timm",
        "vgg13_bn.tv_in1k.safetensors",
        "VGG-13 classifier with batch normalisation, trained by torchvision, in timm's file",
        _hugging_face("timm/vgg13_bn.tv_in1k/resolve/ed6e64d6167edbe08697cb4d7ceaef5077972131/model.safetensors"),
        "sha256:7dae235e35772693cd527e7ac9ef8f6594707a14a8d26aabdb83c0baa6847861",
        None,
        TORCHVISION,
        _BSD,
    ),
    Published(
        "vgg16-timm",
        "vgg16.tv_in1k.safetensors",
        "VGG-16 classifier, trained by torchvision, in timm's file",
        _hugging_face("timm/vgg16.tv_in1k/resolve/3394518cba29aee1ea82a49d971be90d2dd1dab7/model.safetensors"),
        "sha256:57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8",
        None,
        TORCHVISION,
        _BSD,
    ),
    Published(
        "vgg16-caffe",
        "VGG_ILSVRC_16_layers.caffemodel",
        "VGG-16 classifier of the VGG team, which the paper's FCNs start from",
        (f"https://{_VGG_TEAM}", f"http://{_VGG_TEAM}"),
        "sha256:a6196bc498e45ea4cb2637114ae8db9410cf1556fd60a55ae93272371beba197",
        553_432_081,
        CAFFE_VGG,
        _CC_BY,
    ),
    Published(
        "vgg16-keras",
        _KERAS,
        "VGG-16 classifier of the VGG team, in Keras's file",
        (
            f"https://storage.googleapis.com/tensorflow/keras-applications/vgg16/{_KERAS}",
            f"https://github.com/fchollet/deep-learning-models/releases/download/v0.1/{_KERAS}",
        ),
        "md5:64373286793e3c8b2b4e3219cbf3544b",
        553_467_096,
        CAFFE_VGG,
        _CC_BY,
    ),
    Published(
        "vgg16-from-caffe",
        "vgg16_from_caffe.pth",
        "VGG-16 classifier of the VGG team, in pytorch-fcn's file",
        _google_drive("1adDBTGY3GcEB_47dvcibajyzi872RAs3"),
        "md5:aa75b158f4181e7f6230029eb96c1b13",
        None,
        CAFFE_FCN,
        _CC_BY,
    ),
    Published(
        "fcn32s-caffe",
        "fcn32s-heavy-pascal.caffemodel",
        "FCN-32s of the paper's authors on PASCAL VOC",
        (f"{_BERKELEY}/fcn32s-heavy-pascal.caffemodel",),
        "sha1:05eb922d7829c39448f57e5ab9d8cd75d6c0be6d",
        None,
        CAFFE_FCN,
        _BVLC,
    ),
    Published(
        "fcn8s-caffe",
        "fcn8s-heavy-pascal.caffemodel",
        "FCN-8s of the paper's authors on PASCAL VOC",
        (f"{_BERKELEY}/fcn8s-heavy-pascal.caffemodel",),
        "md5:c03b2953ebd846c270da1a8e8f200c09",
        None,
        CAFFE_FCN,
        _BVLC,
    ),
    Published(
        "fcn32s-from-caffe",
        "fcn32s_from_caffe.pth",
        "FCN-32s of the paper's authors on PASCAL VOC, in pytorch-fcn's file",
        _google_drive("11k2Q0bvRQgQbT6-jYWeh6nmAsWlSCY3f"),
        "md5:d3eb467a80e7da0468a20dfcbc13e6c8",
        None,
        CAFFE_FCN,
        _BVLC,
    ),
    Published(
        "fcn16s-from-caffe",
        "fcn16s_from_caffe.pth",
        "FCN-16s of the paper's authors on PASCAL VOC, in pytorch-fcn's file",
        _google_drive("1bctu58B6YH9bu6lBBSBB2rUeGlGhYLoP"),
        "md5:a2d4035f669f09483b39c9a14a0d6670",
        None,
        CAFFE_FCN,
        _BVLC,
    ),
    Published(
        "fcn8s-from-caffe",
        "fcn8s_from_caffe.pth",
        "FCN-8s of the paper's authors on PASCAL VOC, in pytorch-fcn's file",
        _google_drive("1ieXWyoG68xqoHJPWdyrDyaIaaWlfmUxI"),
        "md5:de93e540ec79512f8770033849c8ae89",
        None,
        CAFFE_FCN,
        _BVLC,
    ),
    Published(
        "fcn8s-at-once-from-caffe",
        "fcn8s-atonce_from_caffe.pth",
        "FCN-8s at once of the paper's authors on PASCAL VOC, in pytorch-fcn's file",
        _google_drive("0B9P1L--7Wd2vblE1VUIxV1o2d2M"),
        "md5:bfed4437e941fef58932891217fe6464",
        None,
        CAFFE_FCN,
        _BVLC,
        architecture="fcn8s-at-once",  # its skips are scaled in the program, so it has FCN-8s's tensors
    ),
)

CATALOGUE: dict[str, Published] = {published.name: published for published in _ENTRIES}
