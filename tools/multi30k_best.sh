#!/usr/bin/env bash
# Best Multi30k English-German model, from raw files to int8: teachers, translations of the training text, two rounds of
# student and minimum risk training, export.
# Every step is an nmt command, printed before it runs. The same call again resumes: finished steps are skipped.
#
#     tools/multi30k_best.sh                          corpus in data/multi30k; runs/, prepared/ in this folder
#     MONO=1 tools/multi30k_best.sh                   also back-translated captions (mono.de.gz)
#     SEED=2 tools/multi30k_best.sh                   another seed of the second round; all before it is shared
#     tools/multi30k_best.sh training.updates=500 training.warmup_updates=50    settings of all trainings
#
# Environment: DATA, folder of the corpus, where synthetic text is added (data/multi30k); CLUSTER, cluster file
# (configs/clusters/local.yaml); NMT, command (nmt).
set -euo pipefail
configs=$(dirname "$0")/../configs
DATA=${DATA:-data/multi30k} CLUSTER=${CLUSTER:-$configs/clusters/local.yaml} SEED=${SEED:-1}
SETTINGS=("corpus.root=$DATA" "$@")
read -ra NMT <<< "${NMT:-nmt}"

nmt() { echo "+ nmt $*" >&2; command "${NMT[@]}" "$@"; }

train() {  # NAME FILE SETTINGS...: train a model and score it on the dev set
  [ -e "runs/$1/dev.txt" ] && return
  nmt train "$configs/$2" --cluster "$CLUSTER" "name=$1" "${@:3}" "${SETTINGS[@]}"
  local src=val.en.gz ref=val.de.gz
  [[ $2 == *_de_en.yaml ]] && src=val.de.gz ref=val.en.gz
  nmt evaluate "runs/$1" --src "$DATA/$src" --ref "$DATA/$ref" --metrics bleu,chrf > "runs/$1/dev.tmp"
  mv "runs/$1/dev.tmp" "runs/$1/dev.txt"
}

reduce_risk() {  # NAME RUN SETTINGS...: minimum risk training of a model on the captions alone
  train "$1" multi30k_en_de.yaml corpus.prepared=prepared/multi30k_en_de "training.init_from=runs/$2" \
    training.risk_samples=6 training.learning_rate=3e-4 training.warmup_updates=50 training.ema_decay=0.99 \
    training.log_every=20 training.validate_every=100 training.checkpoint_every=100 batching.max_tokens=512 \
    model.dropout=0.1 model.embedding_dropout=0.05 model.word_dropout=0 \
    decoding.beam=8 decoding.length_penalty=1.4 "${@:3}"
}

translate() {  # NAME RUN FILE OPTIONS...: translate training text to NAME.en and NAME.de
  [ -e "$DATA/$1.done" ] && return
  nmt backtranslate "runs/$2" "$DATA/$3" "$DATA/$1" "${@:4}"
  touch "$DATA/$1.done"
}

score() {  # RUN: score a model on the test set
  [ -e "runs/$1/test.txt" ] && return
  nmt evaluate "runs/$1" --metrics bleu,chrf,bleu-lc | tee "runs/$1/test.tmp"
  mv "runs/$1/test.tmp" "runs/$1/test.txt"
}

# 1. Teachers of both directions, with one vocabulary.
teacher=(model.dropout=0.2 model.embedding_dropout=0.1 training.updates=5000)
train multi30k_en_de_teacher multi30k_en_de.yaml corpus.prepared=prepared/multi30k_en_de "${teacher[@]}"
train multi30k_de_en_teacher multi30k_de_en.yaml corpus.prepared=prepared/multi30k_de_en_teacher "${teacher[@]}" \
  corpus.subword.tokenizer=prepared/multi30k_en_de/tokenizer.json

# 2. The training text, translated in both directions; forward: the candidate nearest to the reference.
translate forward multi30k_en_de_teacher train.en.gz --ref "$DATA/train.de.gz" decoding.beam=8
translate backward multi30k_de_en_teacher train.de.gz
[ -z "${MONO:-}" ] || translate mono_bt multi30k_de_en_teacher mono.de.gz decoding.beam=1

# 3. First round: a student of the size of the teachers, its minimum risk training, and the training text once more,
# translated by the result.
name=multi30k_en_de_best${MONO:+_mono} forward2=forward2${MONO:+_mono}
text="{name: multi30k, src: train.en.gz, tgt: train.de.gz}"
text+=", {name: forward, src: forward.en, tgt: forward.de}, {name: backward, src: backward.en, tgt: backward.de}"
if [ -z "${MONO:-}" ]; then
  first=(training.updates=6500 'stages=[{from_update: 5000, weights: {backward: 0}}]')
  first_risk=(training.risk=3 training.updates=800) last_risk=(training.risk=5 training.updates=400)
else
  text+=", {name: mono, src: mono_bt.en, tgt: mono_bt.de, tag: 1, weight: 0.5}"
  first=(training.updates=5500 'stages=[{from_update: 3800, weights: {mono: 0, backward: 0}}]')
  first_risk=(training.risk=10 training.updates=600) last_risk=(training.risk=5 training.updates=300)
fi
train "${name}_first_student" "$name.yaml" "corpus.prepared=prepared/${name}_first" "corpus.train=[$text]" \
  training.init_from=runs/multi30k_en_de_teacher training.learning_rate=2e-3 training.warmup_updates=300 \
  model.ffn_width=256 "${first[@]}"
reduce_risk "${name}_first" "${name}_first_student" "${first_risk[@]}"
translate "$forward2" "${name}_first" train.en.gz --ref "$DATA/train.de.gz" decoding.beam=8 decoding.length_penalty=1

# 4. Second round: a student with wider feed-forward layers (from random weights; with MONO=1 from those of the teacher),
# its minimum risk training, and the int8 form of the result.
seed=$([ "$SEED" = 1 ] || echo "_seed$SEED")
train "${name}_student$seed" "$name.yaml" "seed=$SEED" "corpus.prepared=prepared/$name"
run=$name$seed
reduce_risk "$run" "${name}_student$seed" "seed=$SEED" model.ffn_width=768 "${last_risk[@]}"
[ -e "runs/$run-int8" ] || nmt export "runs/$run" -o "runs/$run-int8" --format onnx --precision int8
score "$run"
score "$run-int8"
tail -n +1 runs/multi30k_*teacher*/dev.txt runs/multi30k_en_de_best*/*.txt
