#!/usr/bin/env bash
# What this project does on your GPU, in under nine minutes: the tests on the device (pytest -m gpu), the benchmark, and
# a training run of FCN-Basic on CamVid. Writes report.json and report.md, a row of which anybody may add to the README.
#
#     bash tests/gpu_report.sh [DEVICE [CAMVID [OUT]]]
#
# DEVICE: gpu or gpu:N (default gpu). CAMVID: a folder as --data camvid:… takes it (default: camvid/ in the folder that
# MINIFCN_TEST_DATA names, or ../shared/data/camvid). OUT: default runs/gpu-report. PYTHON and GPU_REPORT_SECONDS
# (default 520) may be set. With GPU_REPORT_RESUME=1 the training run that an earlier call left in OUT/camvid goes on.
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
# Of an earlier report nothing may be left: it would be shown as this one's. (A training run to go on with: camvid.)
resume=()
if [ "${GPU_REPORT_RESUME:-0}" = 1 ] && [ -d "$out/camvid" ]; then
    resume=(--resume)
    rm -rf "$out"/*.log "$out"/*.status "$out"/tests.xml "$out"/report.* "$out"/benchmark-*
else
    rm -rf "$out"
fi
mkdir -p "$out"
echo "$about" > "$out/device.json"
echo "device: $about"

# What fails or is stopped is told of in the report, and the next part begins all the same.
step() { # NAME SECONDS COMMAND...: run it for so long at most, keep its output, its exit code and its seconds
    local name=$1 seconds began code
    seconds=$(left "$2")
    shift 2
    began=$(date +%s)
    echo "== $name (at most $seconds s): $*"
    timeout --signal=INT --kill-after=10 "$seconds" "$@" > "$out/$name.log" 2>&1
    code=$?
    echo "$code $(($(date +%s) - began))" > "$out/$name.status"
    echo "   exit code and seconds: $(cat "$out/$name.status"); $(tail -n 1 "$out/$name.log")"
}

# The seconds sum up to GPU_REPORT_SECONDS: training has what the others leave, 190 at least.
step tests 170 "$python" -m pytest -m gpu -q -p no:cacheprovider --junitxml "$out/tests.xml"
step benchmark-float32 85 "$python" -m minifcn.benchmark --device "$device" --quick --out "$out/benchmark-float32"
step benchmark-tf32 75 "$python" -m minifcn.benchmark --device "$device" --quick --precision tf32 \
    --out "$out/benchmark-tf32"
if [ -d "$camvid" ]; then
    # The whole recipe takes 100 epochs. What the time does not allow is stopped by Ctrl-C, with a checkpoint, and goes
    # on when this script is called with GPU_REPORT_RESUME=1.
    step train 10000 "$python" -m minifcn.train --recipe fcn-basic --data "camvid:$camvid" --device "$device" \
        --precision tf32 --validate-every 300 --checkpoint-every 100 --out "$out/camvid" ${resume[@]+"${resume[@]}"}
fi

"$python" tests/gpu_report.py "$out"
