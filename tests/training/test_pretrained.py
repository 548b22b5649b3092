"""Training that starts from a weight file: what is taken from it, what is said, and that a stopped run goes on."""

import csv
import json
import signal
import sys

import numpy as np
import pytest
from networks import fill
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from safetensors.numpy import load_file, save_file

from minifcn import convert, evaluate, models, predict, train, weights
from minifcn.commands import run_command
from minifcn.data import open_for, shapes
from minifcn.errors import UsageError
from minifcn.training import Config, resolve
from minifcn.training import run as run_module
from minifcn.weights import Preprocessing, save_weights
from minifcn.weights.preprocessing import CAFFE_FCN, CAFFE_VGG, TORCHVISION

STAGES = ("fcn32s", "fcn16s", "fcn8s")
CLASSES = 9  # of the drawn pictures, background included
SOURCE = {"name": "published.caffemodel", "sha256": "ab" * 32, "container": "Caffe"}
QUICK = ["--size", "32", "--steps", "2", "--batch-size", "2", "--checkpoint-every", "1"]


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """Validation on 4 pictures instead of 200."""
    monkeypatch.setattr(shapes, "_LENGTHS", {"train": 10, "val": 4})


def save(path, model, preprocessing=CAFFE_VGG, **record):
    """A file as `convert` writes it, with random numbers in every layer."""
    model = fill(model).astype(np.float32)
    path.parent.mkdir(exist_ok=True)
    save_weights(
        path,
        model.state_dict(),
        architecture=model.architecture,
        preprocessing=preprocessing,
        record={"source": SOURCE} | record,
    )
    return path


def classifier(path, **options):
    return save(path, models.VGG16(5, 2, 4), **options)


def fcn(path, name="fcn32s", classes=CLASSES, geometry="same", **options):
    return save(path, models.MODELS[name](classes, 2, 4, geometry=geometry), **options)


def command(module, *arguments):
    """Run a command in this process, which is faster than in one of its own; its exit code, or an exception."""
    return module.main(module.make_parser().parse_args([str(argument) for argument in arguments]))


def begin(file, out, *options):
    """Train from a weight file; a later option replaces a quick one."""
    assert command(train, "--weights", file, "--out", out, *QUICK, *options) == 0
    return out


@pytest.fixture
def refused(monkeypatch, capsys):
    """Asserts that a command ends with the code and one message that has the words."""

    def check(module, code, words, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_command(module.main, module.make_parser())
        errors = capsys.readouterr().err
        assert ended.value.code == code, errors
        assert errors.startswith("error: ")
        for word in words:
            assert str(word) in errors, errors
        return errors

    return check


def rows_of(out):
    with open(out / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def assert_same_weights(folder, other, *stages):
    for stage in stages:
        first, second = (load_file(one / f"{stage}.safetensors") for one in (folder, other))
        assert first.keys() == second.keys()
        for name in first:
            assert_array_equal(first[name], second[name], err_msg=f"{stage}: {name}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run from a classifier: (the weight file, the run's folder)."""
    folder = tmp_path_factory.mktemp("from-classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "_LENGTHS", {"train": 10, "val": 4})
        file = classifier(folder / "vgg.safetensors")
        return file, begin(file, folder / "run", "--quiet", "--lr", "1e-3")


# What a weight file means for the run


def test_a_classifier_becomes_the_three_fcns_of_the_paper(finished):
    """A miniature's width; the classifier trained anew; the geometry of drawn pictures."""
    file, out = finished
    config = Config.from_toml(out / "config.toml")
    assert (config.stages, config.weights) == (STAGES, str(file))
    assert (config.width, config.fc_width, config.geometry) == (2, 4, "paper")
    for stage in STAGES:
        assert weights.load(out / f"{stage}.safetensors").architecture["name"] == stage
    assert {row["stage"] for row in rows_of(out)} == set(STAGES)


def test_torchvision_s_networks_with_batch_normalisation_are_trained_without(tmp_path, refused):
    """vgg16_bn-6c64b313.pth, whose normalisation is folded when it is read: normalised again by statistics that start
    at 0 and 1, or refused without a word about what differs."""
    torch = pytest.importorskip("torch", reason="what writes such files")
    import published

    module = published.torch_vgg_bn("vgg16", published.network("vgg16"))
    torch.save(module.state_dict(), tmp_path / "vgg16_bn.pth")
    out = begin(tmp_path / "vgg16_bn.pth", tmp_path / "run", "--model", "fcn32s", "--lr", "0")
    assert Config.from_toml(out / "config.toml").batch_norm == "none"
    trained, file = (weights.load(path) for path in (out / "model.safetensors", tmp_path / "vgg16_bn.pth"))
    assert trained.architecture["batch_norm"] is False
    assert trained.preprocessing == TORCHVISION
    assert_array_equal(trained.tensors["conv1_1.weight"], file.tensors["conv1_1.weight"])
    assert_array_equal(trained.tensors["conv5_3.bias"], file.tensors["conv5_3.bias"])
    words = ("batch_norm=False", "batch_norm=True", "--batch-norm")
    options = ("--out", tmp_path / "other", *QUICK, "--batch-norm", "train")
    refused(train, 1, words, "--weights", tmp_path / "vgg16_bn.pth", *options)
    assert not (tmp_path / "other").exists()


def test_a_network_with_batch_normalisation_goes_on_being_trained_with_it(tmp_path):
    """Its own file, into a network without; or, when it is frozen, with statistics that move."""
    file = save(tmp_path / "fcn.safetensors", models.FCN32s(CLASSES, 2, 4, geometry="same", batch_norm=True))
    before = load_file(file)
    for number, (options, moves) in enumerate([((), True), (("--batch-norm", "frozen"), False)]):
        # 32 pixels come down to one; two numbers, normalised, are always ±1, and nothing before them has a gradient.
        options = (*options, "--lr", "1e-3", "--size", "64")
        after = load_file(begin(file, tmp_path / str(number), *options) / "model.safetensors")
        assert after.keys() == before.keys()
        for name, array in after.items():
            changed = not np.array_equal(array, before[name])
            assert changed == (moves if "_bn." in name else not name.startswith("upscore")), name


def test_what_is_learnt_from_a_file_is_learnt_gently(tmp_path):
    """The default of 1e-3 destroys pretrained weights within a few steps."""
    architecture = weights.load(classifier(tmp_path / "vgg.safetensors")).architecture
    config = resolve({"data": "pictures", "weights": "vgg.safetensors"}, architecture)
    assert (config.lr, config.batch_size, config.epochs, config.size) == ((1e-5,) * 3, 1, (10,) * 3, None)
    assert resolve({"lr": 0.5, "epochs": 3, "batch_size": 4}, architecture).lr == (0.5,) * 3
    assert resolve({}, architecture).size == (96, 96)  # on drawn pictures


@pytest.mark.parametrize("name", [*STAGES, "fcn8s-at-once"])
@pytest.mark.parametrize("geometry", ["paper", "same"])
def test_an_fcn_goes_on_being_trained_as_it_is(tmp_path, name, geometry):
    """FCN-32s again under FCN-8s; a padding of 100 pixels for a network that was trained with 1."""
    architecture = weights.load(fcn(tmp_path / "fcn.safetensors", name, geometry=geometry)).architecture
    config = resolve({"data": "pictures"}, architecture)
    assert (config.stages, config.geometry, config.width, config.fc_width) == ((name,), geometry, 2, 4)
    assert config.lr == (1e-5,)


@pytest.mark.parametrize(("make", "model"), [(classifier, "fcn16s"), (fcn, "fcn8s")])
def test_the_model_may_be_chosen(tmp_path, make, model):
    architecture = weights.load(make(tmp_path / "file.safetensors")).architecture
    assert resolve({"model": model}, architecture).stages == (model,)
    assert resolve({"model": model, "geometry": "paper"}, architecture).geometry == "paper"


# What is taken from it


def test_the_first_stage_starts_from_the_classifier(tmp_path):
    """The commonest failure of all: a table that says copied, and a network that starts from random numbers."""
    file = classifier(tmp_path / "vgg.safetensors")
    out = begin(file, tmp_path / "run", "--model", "fcn32s", "--lr", "0", "--quiet")
    theirs, ours = load_file(file), load_file(out / "fcn32s.safetensors")
    copied = [name for name in theirs if not name.startswith("fc8")]
    assert len(copied) == 30
    for name in copied:
        assert_array_equal(ours[name], theirs[name].reshape(ours[name].shape), err_msg=name)
    assert not ours["score_fr.weight"].any()


def test_later_stages_start_from_the_classifier_through_the_ones_before(tmp_path):
    file = classifier(tmp_path / "vgg.safetensors")
    out = begin(file, tmp_path / "run", "--lr", "0", "--steps", "1", "--quiet")
    theirs, ours = load_file(file), load_file(out / "model.safetensors")
    assert weights.load(out / "model.safetensors").architecture["name"] == "fcn8s"
    for name in ("conv1_1.weight", "conv5_3.bias", "fc6.weight", "fc7.bias"):
        assert_array_equal(ours[name], theirs[name].reshape(ours[name].shape), err_msg=name)


@pytest.mark.parametrize("name", [*STAGES, "fcn8s-at-once"])
def test_an_fcn_starts_from_all_its_numbers(tmp_path, name):
    """Score layers that begin at zero again, although the file has them for these classes."""
    file = fcn(tmp_path / "fcn.safetensors", name)
    out = begin(file, tmp_path / "run", "--lr", "0", "--quiet")
    theirs, ours = load_file(file), load_file(out / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for tensor in theirs:
        assert_array_equal(ours[tensor], theirs[tensor], err_msg=tensor)
    written, given = (weights.load(path).architecture for path in (out / "model.safetensors", file))
    assert written == given


def test_a_step_moves_away_from_the_file_s_numbers(tmp_path):
    """The tests above must not pass because nothing is trained."""
    file = fcn(tmp_path / "fcn.safetensors")
    out = begin(file, tmp_path / "run", "--lr", "1e-3", "--steps", "1", "--quiet")
    theirs, ours = load_file(file), load_file(out / "model.safetensors")
    difference = np.abs(ours["score_fr.weight"] - theirs["score_fr.weight"]).max()
    assert 0 < difference < 0.01  # Adam's first step is as large as the learning rate


def test_pictures_are_prepared_as_the_file_says(tmp_path):
    """One network twice: for RGB pictures, and with the channels of its first layer turned round, for BGR ones.

    Trained or evaluated with other inputs than its own, the second would score differently; as the third one does.
    """
    rgb = Preprocessing("RGB", 1.0, (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    bgr = Preprocessing("BGR", 1.0, rgb.mean[::-1], rgb.std[::-1])
    model = fill(models.FCN8s(CLASSES, 2, 4)).astype(np.float32)
    turned = model.state_dict() | {"conv1_1.weight": model.state_dict()["conv1_1.weight"][:, ::-1]}
    results = []
    for number, (tensors, preprocessing) in enumerate(
        [(model.state_dict(), rgb), (turned, bgr), (turned, rgb)], start=1
    ):
        file = tmp_path / f"{number}.safetensors"
        save_weights(file, tensors, architecture=model.architecture, preprocessing=preprocessing)
        out = begin(file, tmp_path / f"run-{number}", "--lr", "0", "--dropout", "0", "--quiet")
        rows = rows_of(out)
        results.append(
            [float(rows[0]["loss"]), *(float(rows[-1][name]) for name in ("pixel_accuracy", "mean_accuracy"))]
        )
    assert_allclose(results[1], results[0], rtol=1e-5)  # figures of six digits
    assert not np.allclose(results[2], results[0], rtol=1e-2)


def test_the_preprocessing_and_the_source_are_in_every_file_of_the_run(finished):
    """A mean to be typed by hand later; a network of which nobody knows any more whose weights it started from."""
    _, out = finished
    for name in (*STAGES, "model"):
        file = weights.load(out / f"{name}.safetensors")
        assert file.preprocessing == CAFFE_VGG
        assert file.record["source"] == SOURCE
        assert len(file.record["classes"]) == CLASSES


def test_a_run_without_weights_has_no_source(tmp_path):
    out = tmp_path / "run"
    assert command(train, "--model", "fcn32s", "--width", 2, "--fc-width", 4, *QUICK, "--quiet", "--out", out) == 0
    file = weights.load(out / "model.safetensors")
    assert "source" not in file.record
    assert file.preprocessing == TORCHVISION


def test_a_network_trained_here_can_be_trained_on_and_converted(tmp_path):
    """Its record has no published source; whoever reads one out of it regardless meets a KeyError."""
    first = tmp_path / "first"
    command(train, "--model", "fcn32s", "--width", 2, "--fc-width", 4, *QUICK, "--quiet", "--out", first)
    second = begin(first / "model.safetensors", tmp_path / "second", "--quiet")
    source = weights.load(second / "model.safetensors").record["source"]
    assert source["name"] == "model.safetensors"
    for file in (first / "model.safetensors", second / "model.safetensors"):
        assert command(convert, file, "--to", "caffe-names", "--out", tmp_path / "x.safetensors") == 0
        folded = models.surgery.fold_batch_norm(models.from_weights(file))  # the miniature normalises over the batch
        assert load_file(tmp_path / "x.safetensors").keys() == folded.state_dict().keys()


def test_any_container_will_do(tmp_path):
    """A detour through `convert` only for a file that is read anyway."""
    torch = pytest.importorskip("torch", reason="writes the file of this test")
    model = fill(models.FCN32s(CLASSES, 2, 4)).astype(np.float32)
    tensors = {name: torch.from_numpy(array) for name, array in model.state_dict().items()}
    torch.save(tensors, tmp_path / "fcn32s_from_caffe.pth")
    out = begin(tmp_path / "fcn32s_from_caffe.pth", tmp_path / "run", "--lr", "0", "--quiet")
    file = weights.load(out / "model.safetensors")
    assert file.preprocessing == CAFFE_FCN
    assert file.record["source"]["name"] == "fcn32s_from_caffe.pth"
    for name, array in model.state_dict().items():
        assert_array_equal(file.tensors[name], array, err_msg=name)


# What is said


def test_what_became_of_each_tensor_is_said(tmp_path, capsys):
    """fc8 dropped in silence, or everything new and nobody the wiser."""
    begin(classifier(tmp_path / "vgg.safetensors"), tmp_path / "run", "--model", "fcn32s")
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for name, fate in {
        "conv1_1.weight": "copied",
        "fc6.weight": "reshaped",
        "fc8.weight": "dropped",
        "score_fr.weight": "newly initialised",
    }.items():
        assert fate in lines[name], text


def test_score_layers_for_other_classes_start_anew_and_it_is_said(tmp_path, capsys):
    """21 classes of somebody else's mapped onto 9 of one's own."""
    file = fcn(tmp_path / "fcn.safetensors", "fcn8s", classes=21)
    out = begin(file, tmp_path / "run", "--lr", "0")
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    theirs, ours = load_file(file), load_file(out / "model.safetensors")
    for name in theirs:
        if name.startswith("score_"):
            assert "newly initialised" in lines[name]
            assert (len(ours[name]), ours[name].any()) == (CLASSES, False)
        elif not name.startswith("upscore"):
            assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert "21 classes" in text


# What cannot be: said before anything is written


@pytest.mark.parametrize(("option", "key"), [("--width", "width"), ("--fc-width", "fc_width")])
@pytest.mark.parametrize("make", [classifier, fcn])
def test_a_width_that_is_not_the_file_s_is_refused_with_both(tmp_path, refused, make, option, key):
    file, out = make(tmp_path / "file.safetensors"), tmp_path / "run"
    has = 2 if key == "width" else 4
    words = (file, f"{key}={has}", "3")
    refused(train, 1, words, "--weights", file, "--out", out, *QUICK, option, "3")
    assert not out.exists()


def test_a_vgg_with_another_number_of_layers_is_refused(tmp_path, refused):
    """FCNs are made from VGG16; 19 layers put into 16 places would be another network."""
    file, out = save(tmp_path / "vgg19.safetensors", models.VGG19(5, 2, 4)), tmp_path / "run"
    refused(train, 1, (file, "vgg19"), "--weights", file, "--out", out, *QUICK)
    assert not out.exists()


def broken(kind, folder):
    path = folder / "weights.pth"
    if kind == "unrecognised":
        save_file({"layer1.weight": np.ones((2, 2), np.float32)}, path)
    elif kind == "a web page":
        path.write_text("<html>404 Not Found</html>")
    elif kind == "cut off":
        classifier(path)
        path.write_bytes(path.read_bytes()[:-100])
    return path


@pytest.mark.parametrize("resume", [[], ["--resume"]])
@pytest.mark.parametrize("kind", ["missing", "unrecognised", "a web page", "cut off"])
def test_a_file_that_is_of_no_use_is_named_before_anything_is_written(tmp_path, refused, kind, resume):
    """A folder that is in the way of the second try; or an error that names no file."""
    path, out = broken(kind, tmp_path), tmp_path / "run"
    errors = refused(train, 1, (path,), "--weights", path, "--out", out, *QUICK, *resume)
    assert len(errors.splitlines()) == 1
    assert not out.exists()


def test_the_architecture_of_a_network_that_is_not_known_is_refused():
    with pytest.raises(UsageError, match="none of the networks that can be trained on: vgg11"):
        resolve({}, {})


# Going on


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_a_stopped_run_ends_in_the_same_weights_without_the_file(finished, tmp_path, monkeypatch, stop_after):
    """Stopped in the first stage, at its end, in the second, in the last: resumed, bit for bit the same.

    The file is gone by then: its numbers and its preprocessing must be in the checkpoint.
    """
    file, out, seen = classifier(tmp_path / "vgg.safetensors"), tmp_path / "run", []
    original = run_module.loop.train

    def count_and_stop(steps):
        for step in steps:
            seen.append(step)
            if len(seen) == stop_after:
                signal.raise_signal(signal.SIGINT)
            yield step

    monkeypatch.setattr(run_module.loop, "train", lambda *a, **k: count_and_stop(original(*a, **k)))
    with pytest.raises(KeyboardInterrupt):
        begin(file, out, "--quiet", "--lr", "1e-3")
    monkeypatch.setattr(run_module.loop, "train", original)
    file.unlink()
    assert command(train, "--resume", "--out", out, "--quiet") == 0
    assert_same_weights(finished[1], out, *STAGES, "model")
    resumed = weights.load(out / "model.safetensors")
    assert (resumed.preprocessing, resumed.record["source"]) == (CAFFE_VGG, SOURCE)
    wanted, got = (
        [(row["stage"], row["step"], row["mean_iu"]) for row in rows_of(folder)] for folder in (finished[1], out)
    )
    assert wanted == got


def test_a_run_killed_before_its_first_checkpoint_starts_from_the_file_again(finished, tmp_path, monkeypatch):
    """Resumed from random numbers, since there is no checkpoint, and a configuration already."""
    file, out = finished[0], tmp_path / "run"
    original = run_module.loop.train

    def killed(*arguments, **options):
        raise RuntimeError("killed")

    monkeypatch.setattr(run_module.loop, "train", killed)
    with pytest.raises(RuntimeError, match="killed"):
        begin(file, out, "--quiet", "--lr", "1e-3")
    monkeypatch.setattr(run_module.loop, "train", original)
    assert (out / "config.toml").exists()
    assert command(train, "--resume", "--out", out, "--quiet") == 0
    assert_same_weights(finished[1], out, *STAGES, "model")


def test_a_run_that_has_no_checkpoint_and_lost_its_file_says_so(tmp_path, refused, monkeypatch):
    file, out = classifier(tmp_path / "vgg.safetensors"), tmp_path / "run"

    def killed(*arguments, **options):
        raise RuntimeError("killed")

    monkeypatch.setattr(run_module.loop, "train", killed)
    with pytest.raises(RuntimeError, match="killed"):
        begin(file, out, "--quiet")
    file.unlink()
    refused(train, 1, (file,), "--resume", "--out", out)


def test_resuming_may_repeat_the_weights_but_not_change_them(finished, tmp_path, refused):
    """Another file named, and quietly not used; or the same one refused because it is gone."""
    file, out = classifier(tmp_path / "vgg.safetensors"), tmp_path / "run"
    begin(file, out, "--model", "fcn32s", "--quiet")
    before = (out / "model.safetensors").read_bytes()
    other = classifier(tmp_path / "other.safetensors")
    for wrong in (other, tmp_path / "missing.safetensors"):
        refused(train, 2, ("weights", file, wrong), "--resume", "--out", out, "--weights", wrong)
    file.unlink()
    assert command(train, "--resume", "--out", out, "--weights", file, "--quiet") == 0
    assert (out / "model.safetensors").read_bytes() == before


# Evaluating and predicting with other people's networks


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of five pictures of unequal sizes, and their masks of three classes."""
    root, generator = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number, size in enumerate([(24, 32), (33, 20), (17, 40), (21, 23), (9, 30)]):
        image, mask = generator.integers(0, 256, (*size, 3), np.uint8), generator.integers(0, 3, size, np.uint8)
        Image.fromarray(image).save(root / "images" / f"{number}.png")
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """An FCN-8s as PyTorch users have it: Caffe's names, Caffe's pictures; and what it says of a picture."""
    torch = pytest.importorskip("torch", reason="the oracle of these tests")
    import reference_networks  # which needs torch

    model = fill(models.FCN8s(3, 2, 4)).astype(np.float32)
    tensors = {name: torch.from_numpy(array) for name, array in model.state_dict().items()}
    path = tmp_path_factory.mktemp("foreign") / "fcn8s_from_caffe.pth"
    torch.save(tensors, path)

    def label(image):
        inputs = image[:, :, ::-1].astype(np.float32) - np.array([104.00698793, 116.66876762, 122.67891434], np.float32)
        x = torch.from_numpy(inputs.transpose(2, 0, 1)[None].copy())  # (H, W, 3) -> (1, 3, H, W)
        return reference_networks.fcn_paper("fcn8s", tensors, x)[0].argmax(0).numpy()

    return path, label


def test_a_foreign_fcn_is_evaluated_with_its_own_preprocessing(tmp_path, foreign, pictures):
    """The field's commonest mistake: Caffe's weights on torchvision's pictures, and a mean IU that shames the paper."""
    path, label = foreign
    result = tmp_path / "result.json"
    assert command(evaluate, path, "--data", pictures, "--split", "train", "--json", result) == 0
    counts = np.zeros((3, 3), int)
    dataset = open_for(str(pictures), "train")
    for sample in (dataset[index] for index in range(len(dataset))):
        np.add.at(counts, (sample.labels, label(sample.image)), 1)
    assert len(dataset) == 4
    assert (counts.sum(axis=0) > 0).sum() > 1, "a network that says the same everywhere tests nothing"
    assert_array_equal(json.loads(result.read_text())["confusion"], counts)


def test_a_foreign_fcn_labels_pictures_with_its_own_preprocessing(tmp_path, foreign, pictures):
    path, label = foreign
    picture = pictures / "images" / "0.png"
    assert command(predict, path, picture, "--out", tmp_path / "out") == 0
    with Image.open(picture) as image, Image.open(tmp_path / "out" / "0.png") as mask:
        expected, found = label(np.asarray(image)), np.asarray(mask)
    assert len(np.unique(expected)) > 1
    assert_array_equal(found, expected)


@pytest.mark.parametrize(("count", "name", "said"), [(21, "background", True), (4, "class 0", False)])
def test_a_file_without_class_names_has_the_usual_ones(tmp_path, pictures, capsys, count, name, said):
    """A dog called "class 12", in the released networks; VOC's names for 4 classes of something else."""
    model = models.FCN32s(count, 1, 2)  # whose scores are zero: the first class everywhere
    save_file(model.state_dict(), tmp_path / "fcn.safetensors")
    assert command(predict, tmp_path / "fcn.safetensors", pictures / "images" / "0.png", "--out", tmp_path / "out") == 0
    captured = capsys.readouterr()
    assert f"{name} 100 %" in captured.out
    assert ("taken for those of PASCAL VOC" in captured.err) == said


def test_a_foreign_fcn_does_not_know_what_data_to_be_evaluated_on(foreign, refused):
    refused(evaluate, 2, ("--data",), foreign[0])


def test_a_foreign_fcn_of_other_classes_is_not_evaluated(foreign, refused):
    refused(evaluate, 1, (foreign[0], "3"), foreign[0], "--data", "shapes")
