"""`python -m minifcn.benchmark`: how fast this machine is with minifcn, and with other libraries beside it."""

import argparse
import sys
from pathlib import Path

from minifcn.benchmarking.cases import Case, all_cases, select
from minifcn.benchmarking.chart import draw_chart
from minifcn.benchmarking.measuring import QUICK_ROUNDS, Effort
from minifcn.benchmarking.report import full_text
from minifcn.benchmarking.side import find_sides
from minifcn.benchmarking.suite import run_suite
from minifcn.commands import Parser, parse_names, run_command
from minifcn.errors import UsageError
from minifcn.files import to_json, write_atomically
from minifcn.metrics.tables import format_table

EPILOG = """examples:
  python -m minifcn.benchmark --quick
      the most telling cases, in less than a minute
  python -m minifcn.benchmark --threads 2
      everything, in about a quarter of an hour and 8 GB of memory
  python -m minifcn.benchmark --cases 'conv*/forward,fcn8s-375x500'
      the forward passes of VGG16's layers, and FCN-8s on an image of 375×500

PyTorch, Chainer and DeZero are measured beside minifcn where they are installed: in turns, with as many threads.
Leave the machine alone meanwhile. How to read the figures: docs/benchmark.md.
Exit codes: 0 done, 1 a library gave other results than minifcn, or failed, 2 wrong usage, 130 interrupted."""


def make_parser() -> Parser:
    parser = Parser("benchmark", "Measure the speed and memory of layers and networks, beside other libraries.", EPILOG)
    add = parser.add_argument_group("what to measure").add_argument
    add("--list", action="store_true", help="print the cases, and end")
    cases = "only these cases; * stands for anything, and a name without its /pass for all its passes (default: all)"
    add("--cases", type=parse_names, default=(), metavar="NAME,NAME,…", help=cases)
    quick = "few rounds of the most telling cases (or of --cases), memory of networks only: less than a minute"
    add("--quick", action="store_true", help=quick)
    add("--no-torch", action="store_true", help="leave PyTorch out, though it is installed")
    add = parser.add_argument_group("run").add_argument
    repeat = "rounds of each case (default: what fits into 3 s, from 5 to 25; with --quick into 0.5 s, from 3 to 9)"
    add("--repeat", type=int, metavar="N", help=repeat)
    out = "folder for benchmark.json and benchmark.png (default: runs/benchmark)"
    add("--out", type=Path, default=Path("runs/benchmark"), metavar="DIR", help=out)
    parser.add_machine_options()
    return parser


def main(arguments: argparse.Namespace) -> int:
    if arguments.repeat is not None and arguments.repeat < 1:
        raise UsageError(f"--repeat {arguments.repeat}: at least 1 is needed.")
    cases = select(all_cases(arguments.device), arguments.cases, quick=arguments.quick)
    if arguments.list:
        print(_listing(cases))
        return 0
    arguments.out.mkdir(parents=True, exist_ok=True)  # before anything is measured, so that nothing is in vain
    sides, absent = find_sides(("torch",) if arguments.no_torch else (), arguments.device)
    quick = arguments.quick
    report = run_suite(
        cases,
        sides,
        effort=Effort(arguments.repeat, 0.5, QUICK_ROUNDS) if quick else Effort(arguments.repeat),
        device=arguments.device,
        measure_memory=lambda case: case.operation == "network" or not quick,
        absent=absent,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    write_atomically(arguments.out / "benchmark.json", to_json(report).encode())
    draw_chart(report, arguments.out / "benchmark.png")
    print(f"{full_text(report)}\n\nwritten to {arguments.out}: benchmark.json (every round), benchmark.png")
    return 1 if any(result["failed"] for result in report["cases"]) else 0


def _listing(cases: list[Case]) -> str:
    rows = [
        [case.name, "×".join(map(str, case.input_shape)), _scaled(case), "yes" if case.quick else ""] for case in cases
    ]
    return format_table(["case", "input", "GFLOP", "--quick"], rows, formats=["", ">", ".2f", ""])


def _scaled(case: Case) -> float | None:
    return case.floating_point_operations / 1e9 or None


if __name__ == "__main__":
    run_command(main, make_parser())
