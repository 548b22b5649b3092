"""`python -m minifcn.convert SOURCE --out FILE`: weights from elsewhere, and weights for elsewhere."""

import argparse
import json
import shlex
import sys
from difflib import get_close_matches
from pathlib import Path

from minifcn import models, weights
from minifcn.commands import Parser, run_command
from minifcn.downloads import CACHE_VARIABLE, cache_folder
from minifcn.errors import UsageError, WeightsError
from minifcn.files import write_atomically
from minifcn.models import FCN, FCN8s, FCN8sAtOnce, FCNBasic, to_onnx
from minifcn.weights import WeightFile, export
from minifcn.weights.catalogue import CATALOGUE
from minifcn.weights.file import OWN_NAMES
from minifcn.weights.preprocessing import PRESETS

EPILOG = """examples:
  python -m minifcn.convert --list
      the published weights that can be fetched by name
  python -m minifcn.convert vgg16-torchvision --out vgg16.safetensors
      fetch one, check its hash, and convert it
  python -m minifcn.convert fcn8s-heavy-pascal.caffemodel --out fcn8s.safetensors
      a file at hand: safetensors, PyTorch (both formats), Caffe, Keras HDF5, Chainer npz; told by content
  python -m minifcn.convert runs/mine/model.safetensors --to onnx --out mine.onnx
      take a network elsewhere: torchvision or caffe-names (for PyTorch's load_state_dict), or onnx

No code in a file is ever executed. Exit codes: 0 done, 1 the conversion failed, 2 wrong usage, 130 interrupted."""

FORMATS = (OWN_NAMES, "torchvision", "caffe-names", "onnx")


def make_parser() -> Parser:
    parser = Parser("convert", "Convert weight files: any known container in, safetensors or ONNX out.", EPILOG)
    parser.add_argument(
        "source", metavar="SOURCE", nargs="?", help="a weight file, or the name of published weights (see --list)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="what to write: FILE.safetensors, or FILE.onnx")
    parser.add_argument("--list", action="store_true", help="show the published weights that are known by name")
    parser.add_argument(
        "--to", choices=FORMATS, default=OWN_NAMES, help="names and container of the output (default: minifcn)"
    )
    parser.add_argument(
        "--classes", type=int, metavar="N", help="make an FCN one for N classes: all but its score layers is kept"
    )
    parser.add_argument(
        "--preprocessing",
        choices=tuple(PRESETS),
        help="what the weights were trained on, where their names mislead (default: recognised)",
    )
    parser.add_argument(
        "--at-once", action="store_true", help="an FCN-8s is FCN-8s at once, though it comes without its scale layers"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="folder for downloads (default: the user's cache)")
    parser.add_debug_option()
    return parser


def main(arguments: argparse.Namespace) -> int:
    if arguments.list:
        print(_catalogue_table())
        return 0
    if arguments.source is None or arguments.out is None:
        raise UsageError("SOURCE and --out FILE are needed (or --list); see --help.")
    if arguments.classes is not None and arguments.classes < 1:
        raise UsageError(f"--classes {arguments.classes}: at least 1 is needed.")
    _check_out(arguments.out, arguments.to)
    path = _source(arguments.source, arguments.cache)
    if arguments.out.exists() and arguments.out.samefile(path):
        raise UsageError(f"--out {arguments.out}: is the source itself; name another file.")
    file = _adjusted(path, weights.load(path), arguments)
    print(_description(path, file))
    if arguments.classes is not None:
        file = _for_classes(path, file, arguments.classes)
    _write(path, file, arguments)
    print(f"written to {arguments.out} ({arguments.out.stat().st_size / 1e6:,.1f} MB)")
    print(_next(arguments, file))
    return 0


def _catalogue_table() -> str:
    presets = {preprocessing: name for name, preprocessing in PRESETS.items()}
    lines = [("NAME", "MB", "PICTURES", "LICENCE", "WHAT")]
    for one in CATALOGUE.values():
        size = f"{one.size / 1e6:.0f}" if one.size else "—"
        lines.append((one.name, size, presets.get(one.preprocessing, "own"), one.licence, one.what))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    table = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*table, "", f"Fetched into {cache_folder()} (--cache, or {CACHE_VARIABLE}), and kept there."])


def _check_out(out: Path, to: str) -> None:
    ending = ".onnx" if to == "onnx" else ".safetensors"
    if out.suffix != ending:
        raise UsageError(f"--out {out}: what is written is {ending[1:]}; let the name end in {ending}.")
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder; name a file.")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: the folder {out.parent} is not there; make it first.")


def _source(name: str, cache: Path | None) -> Path:
    """The file of that path; or else the published weights of that name, downloaded."""
    path = Path(name)
    if path.exists():
        return path
    if name in CATALOGUE:
        return weights.fetch(name, cache, progress=sys.stderr.isatty())
    similar = "".join(f" Did you mean {match}?" for match in get_close_matches(name, CATALOGUE, n=1))
    raise UsageError(
        f"SOURCE {name}: there is no such file, nor published weights of that name (--list shows them).{similar}"
    )


def _adjusted(path: Path, file: WeightFile, arguments: argparse.Namespace) -> WeightFile:
    """What the user knows better than the names in the file."""
    architecture, preprocessing = file.architecture, file.preprocessing
    if architecture:
        models.check_known(path, file)
    if arguments.preprocessing:
        preprocessing = PRESETS[arguments.preprocessing]
    if arguments.at_once:
        if architecture.get("name") != FCN8s.name:
            network = architecture.get("name", "no FCN")
            raise UsageError(f"--at-once: {path} holds {network}; only an FCN-8s can be meant. Leave --at-once out.")
        architecture = {**architecture, "name": FCN8sAtOnce.name, "skip_scales": dict(FCN8sAtOnce.skip_scales)}
    return WeightFile(file.tensors, architecture, preprocessing, file.record)


def _description(path: Path, file: WeightFile) -> str:
    source, size = file.record.get("source", {}), f"{path.stat().st_size / 1e6:,.1f} MB"
    if source.get("name") == path.name and "container" in source:
        lines = [f"{path}: {source['container']}, {size}, sha256 {source.get('sha256')}"]
    else:
        lines = [f"{path}: safetensors of minifcn, {size}"]
        if source:
            known = ", ".join(f"{source[key]}" for key in ("container", "sha256") if key in source)
            lines.append(f"made from {source.get('name')}" + (f" ({known})" if known else ""))
    count = sum(array.size for array in file.tensors.values())
    if file.architecture:
        sizes = ", ".join(f"{key} {value}" for key, value in file.architecture.items() if key != "name")
        lines.append(f"{file.architecture['name']}: {count:,} parameters in {len(file.tensors)} tensors; {sizes}")
        lines.append(f"preprocessing: {file.preprocessing}")
    else:
        lines.append(f"no network that minifcn knows: {len(file.tensors)} tensors keep their names ({count:,} numbers)")
    notes = file.record.get("notes")
    return "\n".join([*lines, *(f"note: {note}" for note in (notes if isinstance(notes, list) else []))])


def _for_classes(path: Path, file: WeightFile, classes: int) -> WeightFile:
    """The same FCN for another number of classes, with new score layers."""
    if not file.architecture.get("name", "").startswith("fcn"):
        raise UsageError(
            f"--classes: {path} holds no FCN; only an FCN is converted to another number of classes. Leave it out."
        )
    if classes == file.architecture.get("num_classes"):
        print(f"--classes {classes}: the file has as many; all of it is kept.")
        return file
    try:
        model = models.build({**file.architecture, "num_classes": classes})
        report = models.load_pretrained(model, file)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    print(f"\n{report}\n\n{report.summary()}; train it before use.\n")
    kept = {key: value for key, value in file.record.items() if key not in ("classes", "palette", "data")}
    return WeightFile(model.state_dict(), model.architecture, file.preprocessing, kept)


def _write(path: Path, file: WeightFile, arguments: argparse.Namespace) -> None:
    if arguments.to != OWN_NAMES and not file.architecture:
        raise WeightsError(
            f"--to {arguments.to}: {path} holds neither a VGG nor an FCN that minifcn knows; leave out --to."
        )
    if arguments.to in ("torchvision", "caffe-names") and file.architecture["name"] == FCNBasic.name:
        raise WeightsError(
            f"--to {arguments.to}: {path} holds {FCNBasic.name}, which others do not have; use --to onnx."
        )
    if arguments.to != OWN_NAMES and file.architecture.get("batch_norm"):
        file = _without_batch_norm(path, file)
    if arguments.to == "onnx":
        about = {"preprocessing": json.dumps(file.preprocessing.to_dict()), "record": json.dumps(file.record)}
        write_atomically(arguments.out, to_onnx(models.from_weights(path, file), metadata=about))
        return
    tensors = file.tensors
    if arguments.to == "torchvision":
        tensors = export.to_torchvision(tensors)
        lost = [name for name in file.tensors if name.startswith(models.surgery.SCORE_LAYERS)]
        if len(tensors) < len(file.tensors):
            print(f"left out, since torchvision's VGG has no such layers: {', '.join(lost)} (caffe-names keeps all)")
    elif arguments.to == "caffe-names":
        tensors = export.to_caffe_names(tensors, file.architecture)
    weights.save_weights(
        arguments.out,
        tensors,
        architecture=file.architecture,
        preprocessing=file.preprocessing,
        record=file.record,
        names=arguments.to,
    )


def _without_batch_norm(path: Path, file: WeightFile) -> WeightFile:
    """The same network as other programs have it: those that published it trained it without."""
    model = models.from_weights(path, file)
    try:
        model = models.surgery.fold_batch_norm(model)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    print("batch normalisation is folded into the layers before it; the scores are the same, in evaluation")
    return WeightFile(model.state_dict(), model.architecture, file.preprocessing, file.record)


def _next(arguments: argparse.Namespace, file: WeightFile) -> str:
    out = shlex.quote(str(arguments.out))
    network = models.MODELS[file.architecture["name"]] if file.architecture else None
    is_fcn = network is not None and issubclass(network, FCN | FCNBasic)
    if arguments.to == "onnx":
        return f"next: onnxruntime.InferenceSession({str(arguments.out)!r}); its input is preprocessed as said above"
    if arguments.to != OWN_NAMES or not file.architecture:
        strict = ", strict=False" if is_fcn and arguments.to == "torchvision" else ""
        return f"next: module.load_state_dict(safetensors.torch.load_file({str(arguments.out)!r}){strict})"
    if network is not FCNBasic and not {"fc6.weight", "fc7.weight"} <= file.tensors.keys():
        return "note: fc6 and fc7 are missing, from which an FCN starts; train --weights will not take this file"
    if is_fcn and arguments.classes is None:
        return f"next: python -m minifcn.evaluate {out} --data …, or python -m minifcn.train --weights {out} --data …"
    return f"next: python -m minifcn.train --weights {out} --data …"


if __name__ == "__main__":
    run_command(main, make_parser())
