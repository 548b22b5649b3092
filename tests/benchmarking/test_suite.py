"""The report of tiny cases: its structure, its tables, its picture; and libraries that do not do what they should."""

import json
from dataclasses import replace

import pytest
from PIL import Image

from minifcn.benchmarking import measuring
from minifcn.benchmarking.cases import BACKWARD, FORWARD, GROUP_3X3, all_cases
from minifcn.benchmarking.chart import draw_chart
from minifcn.benchmarking.measuring import Effort
from minifcn.benchmarking.minifcn_side import MinifcnSide
from minifcn.benchmarking.report import full_text
from minifcn.benchmarking.suite import geometric_means, run_suite
from minifcn.errors import BenchmarkError
from minifcn.files import to_json
from minifcn.threads import get_threads, set_threads

CASES = {case.name: case for case in all_cases()}
TINY = [
    replace(CASES["conv3_2/forward"], input_shape=(1, 3, 6, 5), weight_shape=(4, 3, 3, 3)),
    replace(CASES["relu/forward+backward"], input_shape=(1, 3, 6, 5)),
]


class OtherSide(MinifcnSide):
    """Another library that is minifcn under another name, unless it is told to do something wrong."""

    name = "Other"
    version = "1.2"

    def __init__(self, fault=None):
        self.fault, self.threads, self.calls = fault, [], 0

    def set_threads(self, threads):
        self.threads.append(threads)

    def get_threads(self):
        return self.threads[-1]

    def workload(self, case, arrays, device):
        if self.fault == "without" and case.operation == "relu":
            raise BenchmarkError("Other: has no ReLU.")
        genuine = super().workload(case, arrays, device)

        def call():
            self.calls += 1
            outputs = genuine()
            if self.fault == "wrong" and case.operation == "relu":
                return {name: array + 0.1 for name, array in outputs.items()}
            if self.fault == "broken" and case.operation == "relu":
                raise TypeError("an old library on a new Python")
            return outputs

        return call


@pytest.fixture(autouse=True)
def small_products(monkeypatch):
    monkeypatch.setattr(measuring, "PRODUCT_SIZE", 32)
    monkeypatch.setattr(measuring, "REST_SECONDS", 0)
    monkeypatch.setattr(measuring, "SAMPLE_SECONDS", 0)


def run(other, **options):
    options = {"effort": Effort(repeat=2), "measure_memory": lambda case: False, **options}
    return run_suite(TINY, [MinifcnSide(), other], **options)


def test_the_report_is_plain_and_complete():
    """A key that programs read, renamed; or a NumPy number that JSON does not take."""
    said = []
    report = run(OtherSide(), absent={"torch": "not installed"}, say=said.append)
    assert json.loads(to_json(report)) == report
    assert set(report) == {
        "machine",
        "device",
        "threads",
        "libraries",
        "absent",
        "cases",
        "matrix_product",
        "geometric_means",
    }
    assert said == ["1 of 2: conv3_2/forward", "2 of 2: relu/forward+backward"]
    conv, relu = report["cases"]
    assert [case["name"] for case in report["cases"]] == ["conv3_2/forward", "relu/forward+backward"]
    for name in ("minifcn", "Other"):
        measured = conv["results"][name]
        assert len(measured["seconds"]) == 2
        assert measured["flops"] == conv["floating_point_operations"] / measured["median_seconds"]
        assert measured["share_of_peak"] == measured["flops"] / report["matrix_product"]["peak_flops"]
        assert relu["results"][name]["flops"] is relu["results"][name]["share_of_peak"] is None
    ours, theirs = conv["results"].values()
    assert conv["ratios"]["Other"] == {
        "time": ours["median_seconds"] / theirs["median_seconds"],
        "first_call": ours["first_seconds"] / theirs["first_seconds"],
    }
    assert set(report["matrix_product"]["flops"]) == {"minifcn", "Other"}
    assert {"processor", "cores", "numpy", "blas", "commit", "python"} <= set(report["machine"])


def test_all_libraries_get_the_same_threads():
    """One with two threads and one with one: the commonest mistake of such comparisons."""
    before, other = get_threads(), OtherSide()
    try:
        set_threads(1)
        report = run(other)
    finally:
        set_threads(before)
    assert other.threads == [1]
    assert {library["threads"] for library in report["libraries"].values()} == {report["threads"]} == {1}


def test_memory_is_that_of_each_library_and_joins_the_ratios(monkeypatch):
    from minifcn.benchmarking import memory

    peaks = {"minifcn": memory.PeakMemory(10, 300), "other": memory.PeakMemory(20, 600)}
    monkeypatch.setattr(memory, "can_measure", lambda: True)
    monkeypatch.setattr(memory, "peak_in_new_process", lambda library, case, threads: peaks[library])
    other = OtherSide()
    other.library = "other"
    conv, relu = run(other, measure_memory=lambda case: case.operation == "relu")["cases"]
    assert relu["results"]["minifcn"]["peak_bytes"] == 300
    assert relu["results"]["Other"]["ready_bytes"] == 20
    assert relu["ratios"]["Other"]["peak_memory"] == 0.5
    assert "peak_bytes" not in conv["results"]["minifcn"]


@pytest.mark.parametrize(
    ("fault", "where", "words"),
    [
        ("without", "left_out", "Other: has no ReLU."),
        ("wrong", "failed", "Other: its output differs from minifcn's"),
        ("broken", "failed", "Other: TypeError: an old library on a new Python"),
    ],
)
def test_a_library_that_does_not_do_a_case_is_named_and_the_rest_goes_on(fault, where, words):
    """A wrong result that is timed (a library that does less is faster), or one fault that ends everything."""
    report = run(OtherSide(fault))
    conv, relu = report["cases"]
    assert set(conv["results"]) == {"minifcn", "Other"}
    assert set(relu["results"]) == {"minifcn"}
    assert relu["ratios"] == {}
    assert relu[where]["Other"].startswith(words)
    assert not relu["failed" if where == "left_out" else "left_out"]
    assert words in full_text(report)


def test_minifcn_itself_may_not_fail(monkeypatch):
    monkeypatch.setattr("minifcn.ops.relu", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(OtherSide())


def test_geometric_means_by_hand():
    """Of the 3×3 layers only, each pass by itself, and only of libraries that computed all of them."""

    def case(pass_, group=GROUP_3X3, **ratios):
        return {"group": group, "pass": pass_, "ratios": {name: {"time": ratio} for name, ratio in ratios.items()}}

    cases = [
        case(FORWARD, A=0.5, B=3.0),
        case(FORWARD, A=8.0),
        case(BACKWARD, A=0.7, B=2.0),
        case(FORWARD, group="other", A=100.0, B=100.0),
    ]
    means = geometric_means(cases)
    assert means["A"] == {FORWARD: pytest.approx(2.0), BACKWARD: pytest.approx(0.7)}
    assert means["B"] == {BACKWARD: pytest.approx(2.0)}
    assert geometric_means([]) == {}


def test_the_tables_show_what_was_measured():
    report = run(OtherSide())
    report["cases"][0]["ratios"]["Other"]["time"] = 0.57
    report["cases"][0]["results"]["minifcn"]["median_seconds"] = 1.23456
    report["geometric_means"] = {"Other": {FORWARD: 0.57}}
    text = full_text(report)
    assert "minifcn 0.1.0, Other 1.2" in text
    row = next(line for line in text.splitlines() if line.startswith("conv3_2/forward"))
    assert row.split()[1] == "1,234.56"
    assert row.split()[-1] == "0.57"
    assert "geometric mean of 1 3×3 layers, forward: 0.57 × Other's time" in text


@pytest.mark.parametrize("others", [0, 1])
def test_the_chart_is_a_picture(tmp_path, others):
    report = run_suite(
        TINY, [MinifcnSide(), OtherSide()][: 1 + others], effort=Effort(repeat=1), measure_memory=lambda case: False
    )
    figure = draw_chart(report, tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.width > 500
    assert len(figure.axes) == 1 + others
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [case.name for case in TINY]
