"""Recipes, files of configuration, the command line, and which of them wins."""

from dataclasses import fields, replace
from importlib import resources

import pytest
from tiny_runs import STAGES, assert_same_weights, few_pictures, start, tiny

from minifcn import models
from minifcn.errors import UsageError
from minifcn.training import RECIPES, Config, assembly, recipes, resolve
from minifcn.training.config import CLASSIFIER, FCN_STAGES, read_values

PAPER = ("fcn32s", "fcn16s", "fcn8s")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    few_pictures(monkeypatch)


@pytest.fixture
def written(tmp_path):
    """Writes a file of configuration."""

    def write(text, name="choices.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


# The recipes themselves


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_complete(name):
    """A key misspelt, a value of another type, or a list that is longer than the stages."""
    config = resolve({"data": "pictures"}, recipe=name)
    assert set(config.stages) <= {CLASSIFIER, *FCN_STAGES}
    assert {len(config.stages)} == {len(config.steps), len(config.lr), len(config.epochs or config.lr)}


def test_every_file_of_a_recipe_has_a_name_and_every_name_a_file():
    """A recipe that --recipe does not offer, or one that is left out of the package."""
    files = (resources.files("minifcn") / "recipes").iterdir()
    assert sorted(file.name for file in files) == sorted(f"{name}.toml" for name in RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is_for(name):
    about = recipes.about_recipe(name)
    assert len(about.split()) > 8
    assert "=" not in about  # a key taken for a comment


def groups_of(config, number=0):
    """(learning rate, decay) of weights and of biases, as the optimiser of a stage has them."""
    optimizer = assembly.make_optimizer(config, models.FCN32s(2, 1, 1), config.lr[number])
    return [(group["lr"], group["weight_decay"]) for group in optimizer.groups]


def test_heavy_is_as_released():
    """Each number of the reference solvers: one of them wrong, and nobody gets the published figures."""
    config = resolve({"data": "pictures"}, recipe="heavy")
    assert config.stages == PAPER
    assert config.lr == (1e-10, 1e-12, 1e-14)
    assert config.steps == (100_000,) * 3
    assert config.epochs == ()
    assert (config.loss, config.reduction, config.class_weights) == ("cross-entropy", "sum", "none")
    assert (config.batch_size, config.accumulate, config.size, config.crop) == (1, 1, None, None)
    assert (config.optimizer, config.momentum, config.weight_decay) == ("sgd", 0.99, 5e-4)
    assert (config.schedule, config.warm_up) == ("fixed", 0)
    assert (config.flip, config.scale, config.jitter, config.keep_pixels) == (False, None, 0, 1)
    assert (config.width, config.fc_width, config.geometry, config.dropout) == (64, 0, "paper", 0.5)
    assert (config.skips, config.learned_upsampling, config.batch_norm) == ("add", "none", "none")
    assert groups_of(config, 1) == [(1e-12, 5e-4), (2e-12, 0)]  # biases: twice the rate, no decay


def test_light_is_as_in_the_first_paper():
    config = resolve({"data": "pictures"}, recipe="light")
    assert config.stages == PAPER
    assert config.lr == (1e-4, 1e-6, 1e-8)
    assert config.lr[1] == pytest.approx(config.lr[0] / 100)
    assert config.lr[2] == pytest.approx(config.lr[1] / 100)
    assert config.batch_size * config.accumulate == 20
    assert config.epochs[0] == 175
    assert (config.loss, config.reduction, config.class_weights) == ("cross-entropy", "mean", "none")
    assert (config.optimizer, config.momentum, config.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (config.schedule, config.flip, config.jitter) == ("fixed", False, 0)
    assert (config.width, config.fc_width, config.geometry, config.dropout) == (64, 0, "paper", 0.5)
    assert (config.skips, config.learned_upsampling) == ("add", "intermediate")
    assert groups_of(config) == [(1e-4, 5e-4), (2e-4, 0)]


def test_at_once_is_as_released():
    """Without the factors of its skips, training it from a classifier fails."""
    config = resolve({"data": "pictures"}, recipe="at-once")
    assert (config.stages, config.lr, config.steps) == (("fcn8s-at-once",), (1e-10,), (300_000,))
    heavy = resolve({"data": "pictures", "stages": ("fcn32s",)}, recipe="heavy")
    assert config.differences(heavy).keys() == {"stages", "steps"}
    network = assembly.build_network(replace(config, width=1, fc_width=1), "fcn8s-at-once", ("a", "b"))
    assert network.skip_scales == {"pool4": 0.01, "pool3": 0.0001}


def test_fcn_basic_is_as_the_segnet_paper_trained_it():
    config = resolve({"data": "pictures"}, recipe="fcn-basic")
    assert (config.stages, config.width) == (("fcn-basic",), 64)
    assert (config.optimizer, config.momentum, config.lr, config.schedule) == ("sgd", 0.9, (0.01,), "fixed")
    assert (config.batch_size, config.class_weights) == (12, "median-frequency")


@pytest.mark.parametrize(
    ("name", "size"),
    [("miniature", (96, 96)), ("from-scratch", (180, 240)), ("fcn-basic", (360, 480))]
    + [(name, size) for name in ("heavy", "light", "at-once", "fine-tune") for size in ((375, 500), (360, 480))],
)
def test_no_recipe_is_warned_of(name, size):
    """A warning that comes always is read by nobody."""
    config = resolve({"data": "pictures"}, recipe=name)
    for stage, lr in zip(config.stages, config.lr, strict=True):
        assert assembly.clash(config, stage, lr, size) is None


def test_a_recipe_that_does_not_exist_lists_those_that_do():
    with pytest.raises(UsageError, match=r"--recipe heavier: .*heavy, light"):
        resolve({}, recipe="heavier")


# Who wins


@pytest.mark.parametrize(
    ("recipe", "file", "given", "expected"),
    [
        ("miniature", "", {}, 0.0),  # says nothing of it: Config's default
        ("heavy", "", {}, 5e-4),
        ("heavy", "weight_decay = 1e-3", {}, 1e-3),
        ("heavy", "weight_decay = 1e-3", {"weight_decay": 2e-3}, 2e-3),
        ("heavy", "", {"weight_decay": 2e-3}, 2e-3),
        ("miniature", "", {"weight_decay": 2e-3}, 2e-3),
        ("heavy", "weight_decay = 0", {}, 0.0),  # 0 is a value, not the absence of one
        ("heavy", "weight_decay = 1e-3", {"weight_decay": 0.0}, 0.0),
    ],
)
def test_the_nearer_to_the_user_wins(written, recipe, file, given, expected):
    """Command line over file over recipe over default, at each of the four levels."""
    assert resolve(given, recipe=recipe, file=written(file)).weight_decay == expected


def test_without_a_recipe_the_occasion_chooses(written):
    """Shapes, own pictures, or a weight file; the data may be named by the file."""
    classifier = {"name": "vgg16", "width": 2, "fc_width": 4}
    assert resolve({}) == resolve({}, recipe="miniature")
    assert resolve({"data": "mine"}) == resolve({"data": "mine"}, recipe="from-scratch")
    assert resolve({}, file=written('data = "mine"')) == resolve({"data": "mine"}, recipe="from-scratch")
    assert resolve({}, classifier) == resolve({}, classifier, recipe="fine-tune")
    assert resolve({"data": "mine"}, classifier).stages == PAPER


def test_drawn_pictures_have_a_size():
    """They have none of their own: None would be drawn at whatever the data set takes it for."""
    assert resolve({}, recipe="heavy").size == (96, 96)
    assert resolve({"size": (48, 64)}, recipe="heavy").size == (48, 64)
    assert resolve({"data": "mine"}, recipe="heavy").size is None


def test_what_the_weight_file_is_wins_over_the_recipe_only(written):
    """A width of 64 for weights that have 2; or the user's own word overruled."""
    architecture = {"name": "fcn16s", "width": 2, "fc_width": 4, "geometry": "same", "skips": "none"}
    config = resolve({"data": "mine"}, architecture, recipe="heavy")
    assert (config.stages, config.lr, config.steps) == (("fcn16s",), (1e-12,), (100_000,))
    assert (config.width, config.fc_width, config.geometry, config.skips) == (2, 4, "same", "none")
    assert resolve({}, architecture, file=written('skips = "add"')).skips == "add"
    assert resolve({"geometry": "paper"}, architecture, file=written('geometry = "same"')).geometry == "paper"
    assert resolve({}, architecture | {"batch_norm": True}).batch_norm == "train"
    assert resolve({"batch_norm": "frozen", "weights": "f"}, architecture | {"batch_norm": True}).batch_norm == "frozen"


def test_a_rate_for_refining_is_none_to_start_from_a_classifier_with(written):
    """Heavy's 1e-14 for FCN-8s, which only refines FCN-16s: from a classifier it learns nothing."""
    classifier = {"name": "vgg16", "width": 2, "fc_width": 4}
    for model in ("fcn16s", "fcn8s"):
        with pytest.raises(UsageError, match=f"--recipe heavy: .*{model}.*Start with fcn32s .*or give --lr"):
            resolve({"model": model}, classifier, recipe="heavy")
        assert resolve({"model": model, "lr": 1e-10}, classifier, recipe="heavy").lr == (1e-10,)
        assert resolve({"model": model}, classifier, recipe="heavy", file=written("lr = 1e-10")).lr == (1e-10,)
        assert resolve({"model": model}, classifier | {"name": "fcn32s", "geometry": "paper"}, recipe="heavy").lr
        assert resolve({"model": model}, classifier, recipe="fine-tune").lr == (1e-5,)  # for all stages alike
    assert resolve({}, classifier, recipe="heavy").stages == PAPER
    assert resolve({"stages": PAPER}, classifier, recipe="miniature").stages == PAPER  # it starts them so itself
    assert resolve({}, classifier, recipe="miniature").stages == STAGES


def test_a_classifier_s_geometry_is_not_an_fcn_s():
    """VGG's "torchvision" is no geometry that an FCN has."""
    architecture = {"name": "vgg16", "width": 2, "fc_width": 4, "geometry": "torchvision"}
    assert resolve({"data": "mine"}, architecture).geometry == "paper"


def test_fcn_basic_s_weights_train_fcn_basic():
    """It has no geometry, nor dense layers; whoever reads them out of its record meets a KeyError."""
    architecture = {"name": "fcn-basic", "width": 2, "skips": "none", "learned_upsampling": "all"}
    config = resolve({"data": "mine"}, architecture)
    assert (config.stages, config.width, config.skips) == (("fcn-basic",), 2, "none")


def test_steps_take_the_place_of_epochs_and_the_other_way_round(written):
    """Asked for 5 steps, a recipe's 175 epochs; or the epochs of a file that wins over nothing any more."""
    assert resolve({"data": "mine"}, recipe="light").epochs == (175, 100, 100)
    config = resolve({"data": "mine", "steps": (5,)}, recipe="light")
    assert (config.steps, config.epochs) == ((5, 5, 5), ())
    assert resolve({"data": "mine"}, recipe="light", file=written("steps = 5")).epochs == ()
    assert resolve({"epochs": (2,)}, recipe="heavy", file=written("steps = 5")).epochs == (2, 2, 2)
    assert resolve({"steps": (7,)}, recipe="heavy", file=written("epochs = 2")).epochs == ()
    assert resolve({"epochs": (3,)}, recipe="light", file=written("epochs = 2")).epochs == (3, 3, 3)


# Values for stages


def test_stages_keep_their_own_values_by_name():
    """By position, FCN-16s alone would be trained with the learning rate of FCN-32s, a hundred times too large."""
    assert resolve({"stages": ("fcn16s",)}, recipe="heavy").lr == (1e-12,)
    assert resolve({"stages": ("fcn16s", "fcn8s")}, recipe="heavy").lr == (1e-12, 1e-14)
    assert resolve({"stages": ("fcn8s", "fcn32s")}, recipe="heavy").lr == (1e-14, 1e-10)
    assert resolve({"model": "fcn8s"}, recipe="light").epochs == (100,)
    assert resolve({"model": "fcn8s"}).steps == resolve({}).steps[-1:]


def test_stages_of_a_file_go_by_name_too(written):
    file = written('stages = ["fcn16s", "fcn32s"]\nlr = [1e-3, 1e-4]\nsteps = [5, 6]')
    config = resolve({"stages": ("fcn32s", "fcn16s")}, file=file)
    assert (config.lr, config.steps) == ((1e-4, 1e-3), (6, 5))
    config = resolve({}, recipe="heavy", file=written('stages = ["fcn8s"]'))
    assert (config.lr, config.steps) == ((1e-14,), (100_000,))


def test_one_value_stands_for_all_stages(written):
    assert resolve({"lr": (0.5,)}, recipe="heavy").lr == (0.5,) * 3
    assert resolve({"lr": 0.5}, recipe="heavy").lr == (0.5,) * 3
    assert resolve({"stages": STAGES}, recipe="heavy", file=written("lr = 0.5\nsteps = 3")).lr == (0.5,) * 4


def test_equal_values_are_right_for_any_other_stage():
    """Heavy's 100,000 steps for FCN-4s as well; only the learning rate, which differs, has to be given."""
    config = resolve({"stages": ("fcn32s", "fcn8s-at-once"), "lr": (1e-10, 1e-11)}, recipe="heavy")
    assert (config.lr, config.steps) == ((1e-10, 1e-11), (100_000,) * 2)
    assert resolve({"model": "fcn32s"}, recipe="at-once").lr == (1e-10,)


@pytest.mark.parametrize(
    ("recipe", "needed"),
    [
        ("heavy", "--lr too; the recipe heavy"),
        ("miniature", "--steps and --lr too"),
        ("light", "--epochs and --lr too"),
    ],
)
def test_a_stage_that_the_recipe_does_not_know_needs_its_own_values(recipe, needed):
    """A learning rate taken from another stage may be off by a factor of ten thousand."""
    with pytest.raises(UsageError, match=f"--stages fcn8s-at-once: give {needed}"):
        resolve({"model": "fcn8s-at-once"}, recipe=recipe)


def test_a_stage_that_the_file_does_not_know_names_the_file(written):
    file = written('stages = ["fcn16s", "fcn32s"]\nlr = [1e-3, 1e-4]\nsteps = 2')
    with pytest.raises(UsageError, match=r"--stages fcn8s: give --lr too; .*choices\.toml has those of fcn16s, fcn32s"):
        resolve({"model": "fcn8s"}, recipe="heavy", file=file)


def test_values_that_are_given_are_not_asked_for(written):
    """The complaint of a lower level that --lr is missing, when it is there; or of steps, when epochs are chosen."""
    file = written('stages = ["fcn8s-at-once"]')
    assert resolve({"lr": (1e-3,)}, recipe="heavy", file=file).lr == (1e-3,)
    architecture = {"name": "fcn8s-at-once", "width": 2, "fc_width": 4, "geometry": "same"}
    assert resolve({"lr": (1e-3,)}, architecture, recipe="heavy").lr == (1e-3,)
    assert resolve({"model": "fcn-basic", "lr": (0.1,), "epochs": (3,)}, recipe="miniature").epochs == (3,)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lr": (1e-3, 1e-4)}, "--lr 0.001, 0.0001: one value, or one for each of the 3 stages"),
        ({"steps": (1, 2, 3, 4)}, "--steps 1, 2, 3, 4"),
        ({"epochs": (1, 2)}, "--epochs 1, 2"),
        ({"stages": ("fcn32s", "fcn8s"), "lr": (1, 2, 3)}, "--lr 1, 2, 3: .*2 stages"),
    ],
)
def test_a_wrong_number_of_values_is_refused(given, words):
    """Padded or cut off, the values would belong to other stages than was meant."""
    with pytest.raises(UsageError, match=words):
        resolve(given, recipe="heavy")


def test_a_file_s_values_for_another_number_of_stages_are_not_shifted(written):
    """Three rates in a file without stages, and the recipe's four: the second is not for FCN-32s."""
    file = written("lr = [1e-3, 1e-4, 1e-5]")
    with pytest.raises(UsageError, match="--lr"):
        resolve({"stages": ("fcn32s", "fcn16s")}, recipe="miniature", file=file)
    assert resolve({"stages": PAPER}, recipe="miniature", file=file).lr == (1e-3, 1e-4, 1e-5)


# A run, repeated from its config.toml

UNUSUAL = tiny(
    stages=("fcn32s", "fcn8s"),
    lr=(3e-3, 1e-3),
    class_weights="median-frequency",
    class_weight_power=0.5,
    keep_pixels=0.7,
    jitter=0.2,
    warm_up=1,
    schedule="step",
    step_every=1,
    step_factor=0.5,
    accumulate=2,
    optimizer="sgd",
    batch_norm="train",
    skips="none",
    learned_upsampling="all",
    weight_decay=1e-3,
    flip=False,
    seed=3,
)

OTHERWISE = """# all that a recipe could say, and nothing of it as in the run
data = "elsewhere"
stages = ["classifier", "fcn16s"]
steps = [9, 8]
epochs = [7, 6]
lr = [0.1, 0.2]
crop = [16, 16]
scale = [0.5, 2.0]
foreground = 7
size = [8, 8]
batch_size = 5
seed = 11
folds = 3
group = "(x)"
weights = "lost.safetensors"
"""


def test_a_run_s_configuration_alone_repeats_it_bit_for_bit(tmp_path):
    """A choice that is not written down, or is read back as another one."""
    start(UNUSUAL, tmp_path / "first").run()
    again = resolve({}, file=tmp_path / "first" / "config.toml")
    assert again == UNUSUAL
    start(again, tmp_path / "second").run()
    assert_same_weights(tmp_path / "first", tmp_path / "second", "fcn32s", "fcn8s", "model")
    other = resolve({"seed": 4}, file=tmp_path / "first" / "config.toml")
    assert other.differences(UNUSUAL).keys() == {"seed"}


@pytest.mark.parametrize("recipe", [None, "heavy"])
def test_it_does_so_after_the_recipe_has_changed(monkeypatch, written, recipe):
    """What is None in the run, and said by the recipe, is the leak: a file that leaves None out lets the crop in."""
    file, changed = written(UNUSUAL.to_toml()), written(OTHERWISE, "recipe.toml")
    assert read_values(changed).keys() >= {field.name for field in fields(Config) if "None" in str(field.type)}
    monkeypatch.setattr(recipes, "recipe_path", lambda name: changed)
    config = resolve({}, recipe=recipe, file=file)
    assert config == UNUSUAL
    assert (config.crop, config.scale, config.foreground) == (None, None, None)


def test_every_choice_is_written_and_read_back(tmp_path):
    """One key that to_toml forgets, or turns into another type, in either of its states."""
    full = replace(UNUSUAL, crop=(16, 24), scale=(0.5, 2.0), epochs=(2, 3), weights="ä\\b.pth", folds=3, fold=2)
    full = replace(full, group='(a"b)', foreground=255, data="pictures")
    for config in (full, replace(full, crop=None, scale=None, epochs=(), size=None, foreground=None)):
        (tmp_path / "config.toml").write_text(config.to_toml(), encoding="utf-8")
        assert Config.from_toml(tmp_path / "config.toml") == config
        assert read_values(tmp_path / "config.toml").keys() == {field.name for field in fields(Config)}


# Files written by hand


def test_a_file_may_have_comments_and_a_single_value_for_many(written):
    file = written('# my experiment\n\nlr = 5e-4  # gentle\nstages = "fcn8s" # only this\nsize = []  # their own\n')
    assert read_values(file) == {"lr": (5e-4,), "stages": ("fcn8s",), "size": None}
    assert resolve({"data": "mine"}, file=file).lr == (5e-4,)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learning_rat = 1", "unknown keys learning_rat. Known are data, stages"),
        ("batchsize = 4", r"batchsize \(did you mean batch_size\?\)"),
        ("weight-decay = 0.1", r"weight-decay \(did you mean weight_decay\?\)"),
        ("lrr = 1\nquux = 2\nwidht = 3", r"lrr \(did you mean lr\?\), quux, widht \(did you mean width\?\)"),
        ('model = "fcn8s"', r"model \(did you mean stages\?\)"),
        ("[train]\nlr = 1", "unknown keys train"),
    ],
)
def test_a_key_that_means_nothing_is_refused_with_the_likely_one(written, text, words):
    """Silently ignored, it would run another experiment than the one written down."""
    with pytest.raises(UsageError, match=rf"choices\.toml: .*{words}"):
        resolve({}, file=written(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('width = "16"', 'width = "16", but a whole number'),
        ("width = 16.0", "width = 16.0, but a whole number"),
        ("width = true", "width = true, but a whole number"),
        ("flip = 1", "flip = 1, but true or false"),
        ('flip = "no"', "true or false"),
        ("lr = true", r"lr = true, but \[a number"),
        ('lr = ["1e-3"]', "a number"),
        ("lr = [[1e-3]]", "a number"),
        ("steps = [1.5]", "a whole number"),
        ("data = 3", "a text in quotes"),
        ("stages = [1]", "a text in quotes"),
        ("size = 96", r"size = 96, but \[a whole number, a whole number\], or \[\] for none"),
        ("size = [96]", "size"),
        ("size = [1, 2, 3]", "size"),
        ("scale = [0.5, false]", "scale"),
        ("lr = []", r"lr = \[\]"),
        ("steps = []", r"steps = \[\]"),
        ("stages = []", r"stages = \[\]"),
        ("width = []", r"width = \[\]"),
        ("seed = 2020-01-01", "seed"),
        ("foreground = 1.5", "foreground"),
    ],
)
def test_a_value_of_another_type_is_refused_in_words(written, text, words):
    """True is not 1, and 16.0 not 16: whoever writes so means something else."""
    with pytest.raises(UsageError, match=rf"choices\.toml: .*{words}"):
        resolve({}, file=written(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr = nan", "--lr nan"),
        ("lr = [1e-3, 1e-3, 1e-3, nan]", "--lr nan"),
        ("lr = [1e-3, inf, 1e-3, 1e-3]", "--lr inf"),
        ("lr = [-1e-3, 1, 1, 1]", "--lr -0.001"),
        ("weight_decay = nan", "--weight-decay nan"),
        ("momentum = nan", "--momentum nan"),
        ("keep_pixels = nan", "--keep-pixels nan"),
        ("jitter = inf", "--jitter inf"),
        ("step_factor = nan", "--step-factor"),
        ("scale = [1, inf]", "--scale"),
        ("scale = [nan, 1]", "--scale"),
        ("size = [0, 32]", "--size 0x32"),
        ("crop = [16, -1]", "--crop 16x-1"),
        ("epochs = [1, 2, 3, 0]", "--epochs 0"),
        ('stages = ["vgg16"]', "--stages vgg16: choose one of classifier, fcn32s"),
        ('stages = ["classifier"]', "classifier alone"),
        ('stages = ["fcn8s", "fcn8s"]\nlr = 1\nsteps = 1', "each may come once"),
        ("fold = 1", "--fold 1: .*--folds"),
        ('group = "(x)"', "--group .*--folds"),
        ("folds = 3\nfold = 4", "--fold 4: there are the folds 1 to 3"),
        ("folds = 1", "--folds 1"),
        ('folds = 3\nval_split = "train"', "--folds 3: .*both train"),
    ],
)
def test_a_value_that_cannot_be_names_its_option(written, text, words):
    """NaN passes most comparisons, and min() and max(); each stage's value counts, not only the first's."""
    with pytest.raises(UsageError, match=words):
        resolve({}, file=written(text))


@pytest.mark.parametrize(
    "content",
    [b"lr = ", b"\xff\xfe", b"lr = 1\nlr = 2", b"x = " + b"[" * 5000, b"seed = " + b"1" * 5000, b"d = 2020-99-99"],
    ids=["half a line", "another encoding", "twice", "lists without end", "a number without end", "no date"],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "choices.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"choices\.toml: cannot be read"):
        resolve({}, file=path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"missing\.toml: not found"):
        resolve({}, file=tmp_path / "missing.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        resolve({}, file=tmp_path)


def test_half_of_a_run_s_configuration_names_what_it_lacks(written):
    """A config.toml that was cut off, on resuming."""
    with pytest.raises(UsageError, match=r"choices\.toml: .*lacks steps, lr"):
        Config.from_toml(written('data = "shapes"\nstages = "fcn8s"\n'))


# What resuming compares


def test_resuming_asks_only_for_what_is_said(written):
    """A run of many choices, resumed with the file or the recipe it was started with, and nothing else."""
    saved = resolve({"data": "mine", "size": (32, 48), "seed": 4}, recipe="heavy")
    assert resolve({}, saved=saved) == saved
    assert resolve({}, recipe="heavy", saved=saved) == saved
    assert resolve({"seed": 4, "lr": (1e-10, 1e-12, 1e-14)}, file=written("momentum = 0.99"), saved=saved) == saved
    assert resolve({"model": "fcn8s"}, saved=saved).differences(saved).keys() == {"stages", "steps", "lr"}
    other = resolve({}, recipe="light", saved=saved).differences(saved)
    assert other.keys() == {"epochs", "steps", "lr", "reduction", "momentum", "accumulate", "learned_upsampling"}
