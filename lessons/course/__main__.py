"""For authors and teachers, from the folder `lessons`: python -m course build | run | student | site | lite."""

import argparse
import sys
from pathlib import Path

from course import notebooks
from course.site import build_lite, build_site


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m course", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="make the notebooks from lessons/text/")
    run = commands.add_parser("run", help="run lessons top to bottom, and say how long each takes")
    run.add_argument("--solutions", action="store_true", help="with the solutions in the place of the stubs")
    student = commands.add_parser("student", help="copy the lessons without the solutions")
    student.add_argument("folder", type=Path, help="a folder that does not exist yet")
    site = commands.add_parser("site", help="build the site: lessons with their outputs, docs, docstrings")
    lite = commands.add_parser("lite", help="build the edition that runs in the browser")
    for command in (site, lite):
        command.add_argument("folder", type=Path, help="where the pages go")
        command.add_argument("--without-solutions", action="store_true", help="for students")
    for command in (build, run):
        command.add_argument("lessons", nargs="*", type=int, help="their numbers (all)")
    arguments = parser.parse_args()
    if arguments.command == "build":
        for path in notebooks.build(arguments.lessons):
            print(f"wrote {path.name}")
    elif arguments.command == "run":
        total, healthy = 0.0, True
        for text, notebook, seconds in notebooks.run_all(arguments.lessons, solutions=arguments.solutions):
            print(f"{text.stem}: {seconds:.1f} s", flush=True)
            total += seconds
            for problem in notebooks.problems(notebook, solutions=arguments.solutions):
                healthy = False
                print(f"  {problem}", flush=True)
        print(f"together: {total:.0f} s")
        return 0 if healthy else 1
    elif arguments.command == "site":
        build_site(arguments.folder, solutions=not arguments.without_solutions)
        print(f"Open {arguments.folder / 'index.html'}.")
    elif arguments.command == "lite":
        build_lite(arguments.folder, solutions=not arguments.without_solutions)
        print(f"Serve it with: python -m http.server --directory {arguments.folder}")
    else:
        if arguments.folder.exists():
            parser.error(f"{arguments.folder} exists; name a new folder.")
        notebooks.student_copy(arguments.folder)
        print(f"The lessons without solutions are in {arguments.folder}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
