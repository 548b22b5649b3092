"""What the pictures of the lessons show, in words: `described(lesson, picture)`, from `lessons/descriptions.toml`."""

import tomllib
from pathlib import Path

_FILE = Path(__file__).parents[1] / "descriptions.toml"


def described(lesson: int, picture: str) -> str:
    """The alternative text of a picture, on one line.

    It is kept in a file of its own: in the cell that draws the picture it would give away what is to be predicted.
    """
    pictures = tomllib.loads(_FILE.read_text(encoding="utf-8")).get(str(lesson), {})
    if picture not in pictures:
        names = ", ".join(pictures) or "none"
        raise LookupError(
            f"descriptions.toml describes no picture {picture!r} of lesson {lesson}; those it has: {names}."
        )
    return " ".join(pictures[picture].split())
