"""FCN-8s as boxes, of which those that the learner has built are coloured."""

import html
from collections.abc import Iterable

from course import mine
from course.exercises import EXERCISES, LESSONS
from course.verdict import show

_YOURS, _PARTLY, _BORROWED = "#56B4E9", "#cfe8fc", "#ffffff"

# text, part, left, top, width, height; the image goes in on the left and the loss comes out on the right
_BOXES = (
    ("conv1", "convolution", 100, 60, 54, 150),
    ("pool1", "pooling", 158, 70, 40, 130),
    ("conv2", "convolution", 202, 75, 50, 120),
    ("pool2", "pooling", 256, 83, 40, 104),
    ("conv3", "convolution", 300, 88, 50, 94),
    ("pool3", "pooling", 354, 95, 40, 80),
    ("conv4", "convolution", 398, 98, 50, 74),
    ("pool4", "pooling", 452, 103, 40, 64),
    ("conv5", "convolution", 496, 105, 50, 60),
    ("pool5", "pooling", 550, 108, 40, 54),
    ("fc6", "dense layers", 594, 111, 40, 48),
    ("fc7", "dense layers", 638, 111, 40, 48),
    ("score_fr", "convolution", 682, 111, 60, 48),
    ("score_pool3", "convolution", 354, 215, 84, 34),
    ("score_pool4", "convolution", 452, 265, 84, 34),
    ("×2", "upsampling", 672, 265, 46, 34),
    ("+", "skips", 622, 265, 34, 34),
    ("×2", "upsampling", 562, 215, 46, 34),
    ("+", "skips", 512, 215, 34, 34),
    ("×8", "upsampling", 672, 325, 46, 34),
    ("metrics", "metrics", 752, 325, 80, 34),
    ("loss", "loss", 752, 265, 80, 34),
    ("backward pass", "gradients", 752, 165, 96, 34),
    ("optimiser", "optimiser", 752, 111, 96, 34),
)
_ARROWS = (
    ((78, 135), (98, 135)),
    ((374, 175), (374, 213)),
    ((472, 167), (472, 263)),
    ((712, 159), (697, 263)),
    ((672, 282), (658, 282)),
    ((536, 282), (620, 282)),
    ((639, 265), (600, 251)),
    ((562, 232), (548, 232)),
    ((438, 232), (510, 232)),
    ((529, 249), (670, 342)),
    ((718, 342), (750, 342)),
    ((718, 334), (750, 290)),
    ((792, 265), (792, 201)),
    ((800, 165), (800, 147)),
)


def begin(lesson: int) -> None:
    """Show FCN-8s with the parts that are yours, and say what this lesson borrows of the lessons before it."""
    earlier = [exercise for exercise in EXERCISES.values() if exercise.lesson < lesson]
    borrowed = [exercise.name for exercise in earlier if not mine.is_solved(exercise.name)]
    show(_Drawing(lesson, {name for name in EXERCISES if mine.is_solved(name)}))
    if not earlier:
        print("Blue is what you have built, light blue what you have begun. Nothing yet: this is the first lesson.")
    elif borrowed:
        print(f"Yours: {len(earlier) - len(borrowed)} of {len(earlier)} functions of the lessons before this one.")
        print(f"Borrowed from the library: {', '.join(borrowed)}.")
    else:
        print(f"All {len(earlier)} functions of the lessons before this one are yours; nothing is borrowed.")


class _Drawing:
    def __init__(self, lesson: int, solved: set[str]) -> None:
        self._lesson, self._solved = lesson, solved

    def __repr__(self) -> str:
        return f"Lesson {self._lesson}. {LESSONS[self._lesson]}. FCN-8s: {self._state()}"

    def _state(self) -> str:
        return "; ".join(f"{part} {_share(part, self._solved)}" for part in dict.fromkeys(box[1] for box in _BOXES))

    def _repr_html_(self) -> str:
        title = html.escape(f"Lesson {self._lesson}. {LESSONS[self._lesson]}")
        arrows = "".join(f'<line x1="{a}" y1="{b}" x2="{c}" y2="{d}"/>' for (a, b), (c, d) in _ARROWS)
        boxes = "".join(_box(box, self._solved) for box in _BOXES)
        return (
            f'<svg viewBox="0 0 870 375" role="img" aria-label="FCN-8s as boxes. {html.escape(self._state())}" '
            'style="max-width:870px;width:100%;background:#f6f6f4" font-family="sans-serif" font-size="13">'
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
            'orient="auto"><path d="M0 0 10 5 0 10z" fill="#555555"/></marker></defs>'
            f'<text x="20" y="32" font-size="19" fill="#222222">{title}</text>'
            '<text x="24" y="139" fill="#222222">image</text>'
            f'<g stroke="#555555" stroke-width="1.3" marker-end="url(#tip)">{arrows}</g>'
            f'<g fill="#222222" text-anchor="middle">{boxes}</g>{_legend()}</svg>'
        )


def _share(part: str, solved: Iterable[str]) -> str:
    names = [exercise.name for exercise in EXERCISES.values() if exercise.part == part]
    done = sum(name in set(solved) for name in names)
    return "yours" if done == len(names) else f"begun ({done} of {len(names)})" if done else "borrowed"


def _box(box: tuple[str, str, int, int, int, int], solved: set[str]) -> str:
    text, part, left, top, width, height = box
    share = _share(part, solved)
    colour = _YOURS if share == "yours" else _PARTLY if share.startswith("begun") else _BORROWED
    line = "" if share != "borrowed" else ' stroke-dasharray="4 3"'
    middle = f'x="{left + width / 2:g}" y="{top + height / 2 + 5:g}"'
    return (
        f"<g><title>{part}: {share}</title>"
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="4" fill="{colour}" stroke="#555555"{line}/>'
        f"<text {middle}>{text}</text></g>"
    )


def _legend() -> str:
    entries = ((_YOURS, "yours", ""), (_PARTLY, "begun", ""), (_BORROWED, "borrowed", ' stroke-dasharray="4 3"'))
    return "".join(
        f'<rect x="{24 + 110 * i}" y="340" width="18" height="18" rx="3" fill="{colour}" stroke="#555555"{line}/>'
        f'<text x="{48 + 110 * i}" y="354" fill="#222222">{name}</text>'
        for i, (colour, name, line) in enumerate(entries)
    )
