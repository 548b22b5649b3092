"""k-fold cross-validation: every picture judged once, by a network that saw nothing of its group."""

import numpy as np
import pytest

from minifcn.data import Shapes
from minifcn.data.folds import Subset, folds, groups_of, picture_names
from minifcn.errors import UsageError

NAMES = [f"{scene}_{number}" for scene, count in zip("abcde", (4, 2, 2, 1, 1), strict=True) for number in range(count)]


def check(names, k, groups, result):
    """Assert what must hold of any folds. Returns the sizes of val."""
    assert len(result) == k
    assert sorted(index for fold in result for index in fold.val) == list(range(len(names)))
    for fold in result:
        assert sorted(fold.train + fold.val) == list(range(len(names)))
        assert not {groups[i] for i in fold.train} & {groups[i] for i in fold.val}
    return [len(fold.val) for fold in result]


def test_groups_stay_together_and_folds_are_of_one_size():
    """4 | 2 + 2, then 1 to each. Dealt in the order of their names, the groups give 4 + 2 + 1 against 2 + 1."""
    groups = groups_of(NAMES, "^(.)_")
    result = folds(NAMES, 2, groups=groups)
    assert check(NAMES, 2, groups, result) == [5, 5]
    assert {groups[i] for i in result[0].val} & set("abc") in ({"a"}, {"b", "c"})


def test_without_groups_every_picture_is_its_own():
    assert sorted(check(NAMES, 3, NAMES, folds(NAMES, 3))) == [3, 3, 4]
    assert check(NAMES, 10, NAMES, folds(NAMES, 10)) == [1] * 10


def test_pictures_of_one_name_stay_together():
    """The same name in two of the folders that a set was gathered from is the same scene, or soon taken for it."""
    names = ["x", "y", "x", "z", "y", "x"]
    assert sorted(check(names, 3, names, folds(names, 3))) == [1, 2, 3]


def test_random_groups():
    rng = np.random.default_rng(0)
    for case in range(50):
        count, k = int(rng.integers(2, 60)), int(rng.integers(2, 8))
        names = [f"{i:03d}" for i in range(count)]
        groups = [f"g{number}" for number in rng.integers(0, rng.integers(2, count + 1), count)]
        if len(set(groups)) < k:
            continue
        sizes = check(names, k, groups, folds(names, k, groups=groups, seed=case))
        assert max(sizes) - min(sizes) <= max(groups.count(g) for g in groups), f"case {case} of seed 0"
        assert min(sizes) >= 1


def as_names(result, names):
    return [{names[i] for i in fold.val} for fold in result]


def test_the_order_of_listing_does_not_matter():
    """File systems list in any order; folds by position would differ between machines."""
    rng = np.random.default_rng(1)
    groups = dict(zip(NAMES, groups_of(NAMES, "^(.)"), strict=True))
    expected = as_names(folds(NAMES, 3, groups=list(groups.values())), NAMES)
    for _ in range(5):
        shuffled = rng.permutation(NAMES).tolist()
        assert as_names(folds(shuffled, 3, groups=[groups[name] for name in shuffled]), shuffled) == expected


def test_the_seed_decides_and_repeats():
    """Folds in the order of the names would hold neighbours, which often resemble each other."""
    names = [f"{i:03d}" for i in range(40)]
    results = [as_names(folds(names, 4, seed=seed), names) for seed in range(6)]
    assert len({repr([sorted(fold) for fold in result]) for result in results}) == 6
    assert as_names(folds(names, 4, seed=3), names) == results[3]


@pytest.mark.parametrize("k", [-1, 0, 1, 6])
def test_as_many_folds_as_groups_at_most(k):
    """More folds would leave some without a picture to validate on; with one, nothing is left to train on."""
    with pytest.raises(UsageError, match=rf"{k} folds of 5 groups \(of 10 pictures\)"):
        folds(NAMES, k, groups=groups_of(NAMES, "(.)"))


def test_more_folds_than_pictures():
    with pytest.raises(UsageError, match="3 folds of 2 pictures"):
        folds(["a", "b"], 3)
    with pytest.raises(UsageError, match="2 folds of 0 pictures"):
        folds([], 2)


def test_a_group_for_every_name():
    with pytest.raises(UsageError, match="10 names but 9 groups"):
        folds(NAMES, 2, groups=NAMES[1:])


def test_groups_come_from_anywhere_in_the_name():
    names = ["scan-p07-001", "scan-p07-002", "p11-x"]
    assert groups_of(names, r"p(\d+)-(\w)") == ["07", "07", "11"]


def test_names_without_a_group_are_listed():
    """A group of all that did not match would hold strangers, and go unnoticed."""
    names = [f"p1_{i}" for i in range(3)] + [f"x{i:02d}" for i in range(12)]
    with pytest.raises(UsageError, match=r"in 12 of 15 names: x00, .*x09 and 2 more\. Every picture needs one"):
        groups_of(names, r"(p\d)_")
    with pytest.raises(UsageError, match=r"in 1 of 2 names: x\."):  # the parentheses took no part, or matched nothing
        groups_of(["p1", "x"], r"(p\d)?")
    with pytest.raises(UsageError, match=r"in 1 of 2 names: _x\."):
        groups_of(["p1_x", "_x"], r"(.*)_")


@pytest.mark.parametrize(("pattern", "message"), [("(p", "not a regular expression"), ("p[0-9]", "has no parentheses")])
def test_patterns_that_cannot_work(pattern, message):
    with pytest.raises(UsageError, match=message):
        groups_of(NAMES, pattern)


def test_a_subset_is_a_data_set():
    dataset = Shapes("val", size=16, length=6)
    subset = Subset(dataset, np.array([4, 0]), "some of shapes")
    assert len(subset) == 2
    assert [subset[i].name for i in (0, 1, -1)] == [dataset[i].name for i in (4, 0, 0)]
    assert (subset.classes, subset.name) == (dataset.classes, "some of shapes")
    assert (subset.palette == dataset.palette).all()
    with pytest.raises(IndexError):  # what ends `for sample in subset`
        subset[2]


@pytest.mark.parametrize("index", [6, -1])
def test_a_subset_of_samples_that_are_not_there(index):
    with pytest.raises(UsageError, match=f"no sample {index} in shapes, which has 6"):
        Subset(Shapes("val", size=16, length=6), [0, index], "mine")


def test_names_of_any_data_set():
    """With or without a list of them: reading thousands of pictures for their names would be a waste."""
    dataset = Shapes("val", size=16, length=3)
    names = picture_names(dataset)
    assert names == [dataset[i].name for i in range(3)]

    class Listed:
        names = ("a", "b")

    assert picture_names(Listed()) == ["a", "b"]
