#!/usr/bin/env bash
# Check a machine with a GPU: tests, facts about cuDNN, demo, determinism and resume, two ranks, profile of GNMT, training on
# Multi30k, translation, benchmark. Figures are printed as they come; logs and figures end up in one archive.
#
#     tools/gpu_check.sh                  at most 300 s in all, on a machine with torch and the other dependencies but Ray
#     LIMIT=900 tools/gpu_check.sh        longer: each part gets three times as much
#     QUICK=1 tools/gpu_check.sh          every part on a CPU, with tiny sizes, to see that it runs to its end
#
# Environment: OUT, folder of the archive (./out); WORK, folder of corpora and runs (a temporary one); MULTI30K, folder of
# {train,val,test_2016_flickr}.{en,de}.gz, without which two parts are left out; WHEELS, folder of wheels to install from,
# without a network, for this call only; PYTHON (python3).
set -u
cd "$(dirname "$0")/.."
LIMIT=${LIMIT:-300} QUICK=${QUICK:-} PYTHON=${PYTHON:-python3} BEGAN=$SECONDS
SCRATCH=$(mktemp -d)
ARCHIVE=${OUT:-$PWD/out}/gpu_check.tgz
mkdir -p "$(dirname "$ARCHIVE")"
export WORK=${WORK:-$SCRATCH/work} OUT=$SCRATCH/out MULTI30K=${MULTI30K:-} PYTHONUNBUFFERED=1
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} PYTORCH_ALLOC_CONF=expandable_segments:True
mkdir -p "$OUT" "$WORK"
trap 'tar -C "$OUT" -czf "$ARCHIVE" . && echo "== archive: $ARCHIVE"; rm -rf "$SCRATCH"' EXIT
trap 'exit 130' INT TERM

if [ -n "${WHEELS:-}" ]; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-cache-dir --target "$SCRATCH/site" "$WHEELS"/*.whl || exit 2
  export PYTHONPATH=$SCRATCH/site${PYTHONPATH:+:$PYTHONPATH}
fi

FAILED=
part() {  # NAME SECONDS-OF-300 LINES COMMAND...: print the last lines of its output, all of it goes to NAME.log
  local name=$1 most=$(($2 * LIMIT / 300)) lines=$3 left=$((LIMIT - SECONDS + BEGAN)) began=$SECONDS status
  shift 3
  ((left < most)) && most=$left
  if ((most < 5)); then echo "== $name: no time left"; FAILED+=" $name"; return; fi
  echo "== $name (at most $most s)"
  # INT lets a part end in order, with what it has measured so far.
  timeout --signal=INT --kill-after=10 "$most" "$@" > "$OUT/$name.log" 2>&1
  status=$?
  tail -n "$lines" "$OUT/$name.log"
  echo "== $name: status $status after $((SECONDS - began)) s"
  # 124: the time limit.
  ((status == 0 || status == 124)) || FAILED+=" $name"
}
check() { local name=$1 most=$2 lines=$3; shift 3; part "$name" "$most" "$lines" "$PYTHON" tools/gpu_check.py "$@"; }

SENTENCES=512 FIT_S=$((30 * LIMIT / 300)) DEMO_S=$((12 * LIMIT / 300)) TRANSLATE_S=$((20 * LIMIT / 300)) TINY=() TINY_MODEL=()
if [ -n "$QUICK" ]; then
  SENTENCES=8 FIT_S=5 DEMO_S=5 TRANSLATE_S=10
  TINY_MODEL=(model.width=32)
  TINY=(training.updates=20 training.warmup_updates=5 stages=[] training.log_every=10 training.validate_every=20
    training.checkpoint_every=10 batching.max_tokens=256 model.width=32 model.ffn_width=32 decoding.max_length=8)
fi
command -v nvidia-smi > /dev/null && nvidia-smi | head -15
part tests 35 15 "$PYTHON" -m pytest -m gpu tests/test_gpu.py -p no:cacheprovider --durations=5
check facts 25 5 facts
check demo 30 8 fit configs/demo.yaml "$DEMO_S" training.log_every=20 "${TINY[@]}"
check checks 45 8 checks configs/demo.yaml "${TINY[@]}"
check profile 20 5 profile "$SENTENCES" bf16 "${TINY_MODEL[@]}"
if [ -d "$MULTI30K" ]; then
  check multi30k 60 10 fit configs/multi30k_en_de_gpu.yaml "$FIT_S" "${TINY[@]}"
  check translate 30 20 translate multi30k_en_de_gpu "$MULTI30K"/test_2016_flickr.{en,de}.gz "$TRANSLATE_S" 512 64 1
else
  echo "== multi30k, translate: left out; set MULTI30K to the folder of the Multi30k files"
fi
check bench 55 40 bench 1
echo "== all parts: $((SECONDS - BEGAN)) s; failed:${FAILED:- none}"
[ -z "$FAILED" ]
