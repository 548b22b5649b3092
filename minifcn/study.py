"""`python -m minifcn.study`: the comparisons of the FCN paper in miniature, in one table."""

import argparse
import sys
from pathlib import Path

from minifcn import data
from minifcn.commands import ACCEPTED_DATA, Parser, parse_names, parse_size, run_command
from minifcn.training import comparisons, study

EPILOG = """examples:
  python -m minifcn.study --seeds 1 --jobs 2
      every comparison once, on drawn pictures, two runs at a time: a first look, without a verdict
  python -m minifcn.study --jobs 2
      three times each, with means, spread and verdicts
  python -m minifcn.study --only stages,class-weights --data camvid:CamVid --size 90x120 --steps-factor 2
      two of the comparisons on CamVid, for twice as long

Each run is an ordinary one, in OUT/NAME-seedN. What is finished is not trained again: called once more, a study that
was stopped goes on; with more seeds or other comparisons, it adds what is missing.
Exit codes: 0 done, 1 a run failed, 2 wrong usage, 130 interrupted."""


def make_parser() -> Parser:
    parser = Parser("study", "Repeat the comparisons of the FCN paper in miniature, and print one table.", EPILOG)
    add = parser.add_argument_group("what to compare").add_argument
    add("--list", action="store_true", help="print the comparisons and what they train, and end")
    only = "only these comparisons, by name (default: all)"
    add("--only", type=parse_names, default=(), metavar="NAME,NAME,…", help=only)
    add("--seeds", type=int, default=3, metavar="N", help="how many times to train everything (default: 3)")
    factor = "multiply the length of all training, which is that of the recipe miniature (default: 1)"
    add("--steps-factor", type=float, default=1.0, metavar="F", help=factor)
    add = parser.add_argument_group("pictures").add_argument
    add("--data", default="shapes", help=f"{ACCEPTED_DATA} (default: shapes, drawn on the fly)")
    add("--download", action="store_true", help="fetch the data set first, if it is one that is published")
    add("--size", type=parse_size, metavar="HxW", help="scale pictures to this height and width (default: 96x96)")
    add = parser.add_argument_group("run").add_argument
    add("--out", type=Path, metavar="DIR", help="folder of the study (default: runs/study-NAME, NAME from --data)")
    jobs = "runs to train at a time, each with its share of --threads; one for each core is fastest (default: 1)"
    add("--jobs", type=int, default=1, metavar="N", help=jobs)
    parser.add_machine_options()
    return parser


def main(arguments: argparse.Namespace) -> int:
    if arguments.list:
        print(study.listing())
        return 0
    spec = data.download(arguments.data) if arguments.download else arguments.data
    out = arguments.out or Path("runs") / f"study-{Path(spec.rpartition(':')[2]).name or 'data'}"
    base = study.base_config(spec, arguments.size, arguments.steps_factor)
    try:
        report = study.run_study(
            base,
            out,
            seeds=arguments.seeds,
            only=arguments.only,
            jobs=arguments.jobs,
            device=arguments.device,
            say=lambda line: print(line, flush=True),
            bar=sys.stderr.isatty(),
        )
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        raise
    print(f"\n{comparisons.table(report)}\n\n{comparisons.notes(report)}")
    print(f"\nwritten to {out}: study.md (this table), study.json (every seed's figures), and the runs' folders")
    return 0


if __name__ == "__main__":
    run_command(main, make_parser())
