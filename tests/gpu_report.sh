#!/usr/bin/env bash
# What this project does on your GPU, in under nine minutes: the tests on the device (pytest -m gpu), the benchmark, and
# a training run of FCN-Basic on CamVid. Writes report.json and report.md, a row of which anybody may add to the README.
#
#     bash tests/gpu_report.sh [DEVICE [CAMVID [OUT]]]
#
# DEVICE: gpu or gpu:N (default gpu). CAMVID: a folder as --data camvid:… takes it (default: camvid/ in the folder that
# MINIFCN_TEST_DATA names, or ../shared/data/camvid). OUT: default runs/gpu-report. PYTHON and GPU_REPORT_SECONDS
# (default 520) may be set.
#
# Exit codes: 0 all was done; 1 something failed, and the report says what; 3 there is no GPU here, nothing was run, and
# no report was written: nothing may be shown as run on a GPU then.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

device=${1:-gpu}
camvid=${2:-${MINIFCN_TEST_DATA:-../shared/data}/camvid}
out=${3:-runs/gpu-report}
python=${PYTHON:-python}
end=$(($(date +%s) + ${GPU_REPORT_SECONDS:-520}))
left() { echo $(($1 < end - $(date +%s) ? $1 : (end - $(date +%s) > 1 ? end - $(date +%s) : 1))); }

if ! about=$("$python" - "$device" <<'PYTHON'
import json, sys
from minifcn.backend import get_backend
from minifcn.errors import DeviceError
try:
    print(json.dumps(get_backend(sys.argv[1]).describe()))
except DeviceError as error:
    sys.exit(f"not run on a GPU: {error}")
PYTHON
); then
    echo "gpu_report: no GPU here; nothing was run, and no report is written." >&2
    exit 3
fi
rm -rf "$out"
mkdir -p "$out"
echo "$about" > "$out/device.json"
echo "device: $about"

# How long each part may take; a part that is stopped is told of in the report.
step() { # NAME SECONDS COMMAND...: run it, keep its output, its exit code and its seconds
    local name=$1 seconds began
    seconds=$(left "$2")
    shift 2
    began=$(date +%s)
    echo "== $name (at most $seconds s): $*"
    timeout --signal=INT --kill-after=10 "$seconds" "$@" > "$out/$name.log" 2>&1
    echo "$? $(($(date +%s) - began))" > "$out/$name.status"
    echo "   exit code and seconds: $(cat "$out/$name.status"); $(tail -n 1 "$out/$name.log")"
}

step tests 170 "$python" -m pytest -m gpu -q -p no:cacheprovider --junitxml "$out/tests.xml"
if "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("minifcn.benchmark") is None)'; then
    step benchmark-float32 90 "$python" -m minifcn.benchmark --device "$device" --quick --out "$out/benchmark-float32"
    step benchmark-tf32 60 "$python" -m minifcn.benchmark --device "$device" --quick --precision tf32 \
        --out "$out/benchmark-tf32"
fi
if [ -d "$camvid" ]; then
    # The whole recipe takes 100 epochs. What the time does not allow is stopped by Ctrl-C, with a checkpoint, and can be
    # gone on with: python -m minifcn.train --resume --device gpu --out OUT/camvid
    step train 10000 "$python" -m minifcn.train --recipe fcn-basic --data "camvid:$camvid" --device "$device" \
        --precision tf32 --validate-every 300 --checkpoint-every 100 --out "$out/camvid"
fi

"$python" - "$out" <<'PYTHON'
import csv, json, platform, subprocess, sys
import xml.etree.ElementTree as xml
from pathlib import Path

from minifcn.benchmarking.report import full_text

out = Path(sys.argv[1])
commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
changed = bool(subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True).stdout.strip())
report = {"commit": commit + ("+changes" if changed else ""), "python": platform.python_version()}
report["device"] = json.loads((out / "device.json").read_text())
report["parts"] = {}
for status in sorted(out.glob("*.status")):
    code, seconds = map(int, status.read_text().split())
    report["parts"][status.stem] = {"exit_code": code, "seconds": seconds, "stopped": code in (124, 130, 137)}
if (out / "tests.xml").exists():
    suite = next(xml.parse(out / "tests.xml").getroot().iter("testsuite")).attrib
    report["tests"] = {name: int(suite[name]) for name in ("tests", "failures", "errors", "skipped")}
for precision in ("float32", "tf32"):
    for path in sorted((out / f"benchmark-{precision}").glob("*.json")):
        report.setdefault("benchmark", {}).setdefault(precision, {})[path.stem] = json.loads(path.read_text())
rows = out / "camvid" / "metrics.csv"
if rows.exists():
    with open(rows, newline="") as file:
        metrics = list(csv.DictReader(file))
    report["training"] = {"rows": metrics[-20:], "steps": metrics[-1]["step"] if metrics else 0}
    validated = [row for row in metrics if row.get("mean_iu")]
    if validated:
        report["training"]["val_mean_iu"] = validated[-1]["mean_iu"]
(out / "report.json").write_text(json.dumps(report, indent=2) + "\n")

tests, training = report.get("tests"), report.get("training", {})
cells = {
    "GPU": report["device"]["name"],
    "driver": report["device"]["driver"] or report["device"]["cuda_of_driver"],
    "CuPy": report["device"]["cupy"],
    "commit": report["commit"],
    "tests failed / run": f"{tests['failures'] + tests['errors']} / {tests['tests']}" if tests else "not finished",
    "CamVid: steps of FCN-Basic": training.get("steps", "not run"),
    "val mean IU": training.get("val_mean_iu", "not measured"),
}
lines = ["| " + " | ".join(cells) + " |", "|" + "---|" * len(cells)]
lines.append("| " + " | ".join(str(value) for value in cells.values()) + " |")
for path in sorted(out.glob("benchmark-*/benchmark.json")):
    lines += ["", f"## {path.parent.name}", "", "```", full_text(json.loads(path.read_text())), "```"]
(out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
print("\n".join(lines))
print(f"\nwritten: {out / 'report.json'} and {out / 'report.md'}")
bad = [name for name, part in report["parts"].items() if part["exit_code"] and not (name == "train" and part["stopped"])]
sys.exit(f"failed or stopped: {', '.join(bad)} (see {out}/NAME.log)" if bad else 0)
PYTHON
