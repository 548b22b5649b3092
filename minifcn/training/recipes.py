"""Recipes: configurations by name, and how a recipe, a file and the command line become the configuration of a run.

What is nearer to the user wins: the command line over the file of --config, that over the recipe, that over Config's
defaults. A recipe is a TOML file in `minifcn/recipes/`: its first lines say what it is for, its keys are Config's.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from minifcn.errors import UsageError
from minifcn.models import MODELS
from minifcn.training.config import FCN_STAGES, PER_STAGE, Config, read_values

MINIATURE, FROM_SCRATCH, FINE_TUNE = "miniature", "from-scratch", "fine-tune"
RECIPES = (MINIATURE, FROM_SCRATCH, FINE_TUNE, "heavy", "light", "at-once", "fcn-basic")
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
) -> Config:
    """The configuration that is meant by what was given.

    given: Config's keys, from the command line; one value of steps, epochs or lr stands for all stages. "model" is
      short for stages of this one.
    pretrained: the architecture of the weight file to start from, whose sizes are taken over.
    recipe: without one, the miniature on shapes, fine-tune with a weight file, else from-scratch.
    file: TOML, some of Config's keys or all.

    Raises UsageError for what is not known, or does not fit together.
    """
    given = {key: _as_tuple(value) if key in PER_STAGE else value for key, value in given.items()}
    if "model" in given:
        given["stages"] = (given.pop("model"),)
    written = read_values(file) if file else {}
    data = given.get("data", written.get("data", "shapes"))
    if recipe is None:
        recipe = FINE_TUNE if pretrained is not None else MINIATURE if data == "shapes" else FROM_SCRATCH
    values = _over(read_values(recipe_path(recipe)), {"data": data}, f"the recipe {recipe}")
    if pretrained is not None:
        values = _over(values, _taken_over(pretrained), f"the recipe {recipe}")
    values = _over(values, written, f"the recipe {recipe}")
    values = _over(values, given, str(file or f"the recipe {recipe}"))
    if values["data"] == "shapes" and values.get("size") is None:
        values["size"] = _SHAPES_SIZE
    return Config.from_values(values, "the configuration")


def _as_tuple(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _over(lower: Values, upper: Mapping[str, Any], source: str) -> Values:
    """`upper` where it says something, else `lower`, whose values for stages go with the stages' names."""
    merged = {**lower, **upper}
    if "steps" in upper and "epochs" not in upper:
        merged["epochs"] = ()  # steps were asked for
    for key in PER_STAGE:
        if key in upper and len(upper[key]) == 1:
            merged[key] = upper[key] * len(merged["stages"])
        elif key not in upper and "stages" in upper and merged.get(key):
            merged[key] = tuple(_of_stage(stage, key, lower, source) for stage in merged["stages"])
    return merged


def _of_stage(stage: str, key: str, values: Values, source: str) -> Any:
    """The value for this stage; for one that is not named, that which all others have."""
    named = dict(zip(values["stages"], values[key], strict=False))
    if stage not in named and len(set(named.values())) > 1:
        raise UsageError(
            f"--stages {stage}: {source} has no {key} for it, and those for {', '.join(named)} differ; give --{key}."
        )
    return named.get(stage, values[key][0])


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
        values |= {"stages": (name,), "geometry": architecture["geometry"], "skips": architecture.get("skips", "add")}
    return values
