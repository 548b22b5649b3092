"""Recipes: configurations by name, and how a recipe, a file and the command line become the configuration of a run.

What is nearer to the user wins: the command line over the file of --config, that over the recipe, that over Config's
defaults. A recipe is a TOML file in `minifcn/recipes/`: its first lines say what it is for, its keys are Config's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from minifcn.errors import UsageError
from minifcn.models import MODELS
from minifcn.training.config import CLASSIFIER, FCN_STAGES, PER_STAGE, Config, read_values

MINIATURE, FROM_SCRATCH, FINE_TUNE = "miniature", "from-scratch", "fine-tune"
RECIPES = (MINIATURE, FROM_SCRATCH, FINE_TUNE, "heavy", "light", "at-once", "fcn-basic")
# Made to start from a pretrained network.
NEEDING_WEIGHTS = (FINE_TUNE, "heavy", "light", "at-once")
_SHAPES_SIZE = (96, 96)  # of drawn pictures, which have no size of their own

Values = dict[str, Any]


def recipe_path(name: str) -> Path:
    """Where a recipe's TOML file is; UsageError for a name that none has."""
    if name not in RECIPES:
        raise UsageError(f"--recipe {name}: there is {', '.join(RECIPES)}.")
    return Path(str(resources.files("minifcn"))) / "recipes" / f"{name}.toml"


def about_recipe(name: str) -> str:
    """The comment at the top of a recipe: what it is for."""
    lines = recipe_path(name).read_text(encoding="utf-8").splitlines()
    comment = lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.removeprefix("#").strip() for line in comment)


def resolve(
    given: Mapping[str, Any],
    pretrained: Mapping[str, Any] | None = None,
    *,
    recipe: str | None = None,
    file: Path | None = None,
    saved: Config | None = None,
) -> Config:
    """The configuration that is meant by what was given.

    given: Config's keys, from the command line; one value of steps, epochs or lr stands for all stages. "model" is
      short for stages of this one.
    pretrained: the architecture of the weight file to start from, whose sizes are taken over.
    recipe: without one, the miniature on shapes, fine-tune with a weight file, else from-scratch.
    file: TOML, some of Config's keys or all.
    saved: of a run that is to be resumed; holds where none of the others says anything, in place of a recipe.

    Raises UsageError for what is not known, or does not fit together.
    """
    given = dict(given)
    if "model" in given:
        given["stages"] = (given.pop("model"),)
    written = read_values(file) if file else {}
    if recipe is None and saved is None:
        shapes = given.get("data", written.get("data", "shapes")) == "shapes"
        recipe = FINE_TUNE if pretrained is not None else MINIATURE if shapes else FROM_SCRATCH
    layers = [("the run", vars(saved) if saved else {"data": "shapes"})]
    if recipe is not None:
        layers.append((f"the recipe {recipe}", read_values(recipe_path(recipe))))
    if pretrained is not None:
        layers.append(("the weight file", _taken_over(pretrained)))
    values = _merge([*layers, (str(file), written), ("the command line", given)])
    if recipe is not None and pretrained is not None and not {"lr"} & {*given, *written}:
        _check_first_stage(values["stages"][0], recipe, pretrained)
    if values["data"] == "shapes" and values.get("size") is None:
        values["size"] = _SHAPES_SIZE
    return Config(**values)


def _check_first_stage(stage: str, recipe: str, pretrained: Mapping[str, Any]) -> None:
    """UsageError if a stage that refines the one before is to start from a classifier, at the rate for refining."""
    own = read_values(recipe_path(recipe))
    first = next(one for one in own["stages"] if one != CLASSIFIER)
    if pretrained["name"] in FCN_STAGES or stage in (CLASSIFIER, first) or len(set(own["lr"])) == 1:
        return
    raise UsageError(
        f"--recipe {recipe}: its learning rate for {stage} is for refining the stage before, but the weight file holds "
        f"a classifier. Start with {first} (leave out --model or --stages), or give --lr."
    )


def _merge(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Values:
    """What the last layer that has a key says; each layer comes with the words for where it is from.

    Values for stages were meant for the stages of their layer, or of those below, and go with these stages' names.
    """
    values: Values = {}
    meant: dict[str, tuple[str, tuple[str, ...]]] = {}  # of steps, epochs and lr: by whom, and for which stages
    for source, layer in layers:
        values |= layer
        if "steps" in layer and "epochs" not in layer:
            values["epochs"] = ()  # steps were asked for
        meant |= {key: (source, values["stages"]) for key in PER_STAGE if key in layer}
    missing = {}
    for key, (source, stages) in meant.items():
        chosen, each = values["stages"], _as_tuple(values[key])
        if len(each) == 1:
            each *= len(chosen)
        elif chosen != stages and len(each) == len(stages):
            named = dict(zip(stages, each, strict=True))
            new = {CLASSIFIER, *FCN_STAGES} & set(chosen) - set(stages)  # Config refuses others
            needed = key != "steps" or not values.get("epochs")
            if new and needed and len(set(each)) > 1:
                missing[f"--{key}"] = f"{source} has those of {', '.join(stages)}"
            each = tuple(named.get(stage, each[0]) for stage in chosen)  # equal ones are right for any other stage
        values[key] = each
    if missing:
        raise UsageError(
            f"--stages {', '.join(values['stages'])}: give {' and '.join(missing)} too; "
            f"{' and '.join(dict.fromkeys(missing.values()))}, which differ."
        )
    return values


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _taken_over(architecture: Mapping[str, Any]) -> Values:
    """What the network of a weight file decides: its sizes; of an FCN, that this FCN is trained on, as it is.

    A classifier becomes FCN-32s, 16s and 8s, one from the other, as in the paper: the recipe says so.
    """
    name = str(architecture.get("name"))
    if name not in MODELS:
        raise UsageError(f"{name} is none of the networks that can be trained on: {', '.join(MODELS)}.")
    values = {"width": architecture.get("width", 64), "fc_width": architecture.get("fc_width") or 0}
    values["batch_norm"] = "train" if architecture.get("batch_norm") else "none"
    if name in FCN_STAGES:
        kept = {key: architecture[key] for key in ("geometry", "skips") if key in architecture}
        values |= {"stages": (name,), **kept}
    return values
