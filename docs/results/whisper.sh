#!/bin/sh
# A real model on real speech: Whisper tiny.en on ten utterances of each of ten speakers of LibriSpeech's test-other. One
# speaker calibrates the factorisation, half of the utterances of two are searched on, two choose, five are reported.
# Whatever has ended is skipped and whatever was stopped resumes. From the root of a checkout:
#   ROOT=/data CORES=2 sh docs/results/whisper.sh       # /data holds LibriSpeech/test-other
# MODEL=hf:FOLDER takes the model from a folder. Tables: python -m experiments.summary outputs=outputs/study/whisper/whole
set -eu
: "${ROOT:?the folder that holds LibriSpeech}" "${MODEL:=hf:openai/whisper-tiny.en}" "${CORES:=1}" "${BUDGET:=40}"
: "${RULES:=uniform energy}" "${AGENTS:=model_based ppo tpe}" "${WHOLE:=0.8}" "${ENCODER:=0.97 0.95}"
export TQDM_DISABLE=1 OMP_NUM_THREADS=1
study=outputs/study/whisper
mkdir -p "$study"

speakers() { # the file, how many utterances of each, who
    file=$study/$1.txt && count=$2 && shift 2
    for speaker; do ls "$ROOT/LibriSpeech/test-other/$speaker"/*/*.flac | head -n "$count"; done |
        sed 's|.*/||; s|\.flac$||' >"$file"
}
speakers calibration 10 1688
speakers proxy 5 1998 2033
speakers dev 10 2414 2609
speakers test 10 3005 3080 3331 367 533
part() { echo "{root: $ROOT, subset: test-other, ids: $study/$1.txt}"; }

sets="proxy=$(part proxy)|dev=$(part dev)|test=$(part test)|factorisation=activation_aware"
sets="$sets|factorisation.calibration=$(part calibration)|model=$MODEL"

in_turns() { # a line of standard input for each program, and what all get
    xargs -P "$CORES" -I {} sh -c 'set -f; line=$1; shift; exec python -m $line "$@"' sh {} "$@"
}
search() { # sizes, a folder, and what else all get
    sizes=$1 folder=$2 && shift 2
    for agent in $AGENTS; do
        # model_based keeps to the size by itself.
        case $agent in model_based) constraint=check ;; *) constraint=decrement ;; esac
        for size in $sizes; do
            echo "experiments.search agent=$agent constraint=$constraint constraint.budget=$size"
        done
    done | (IFS='|' && in_turns $sets reward=divergence "budget=$BUDGET" finalists=3 "outputs=$folder" "$@")
}

# WER against size on the reported speakers, with and without the calibration.
for way in svd activation_aware; do
    [ $way = svd ] || calibrate="factorisation.calibration=$(part calibration)"
    python -m experiments.studies.uniform_curve "model=$MODEL" "set=$(part test)" "dense=[decoder.*]" \
        sizes=[0.97,0.95,0.93,0.91] "outputs=$study/uniform" factorisation=$way ${calibrate+"$calibrate"}
done

# The whole model, the embedding included: by rules, which measure nothing, and by searches.
for rule in $RULES; do
    for size in $WHOLE; do echo "experiments.seed_model agent=$rule size=$size"; done
done | (IFS='|' && in_turns $sets "outputs=$study/whole")
search "$WHOLE" "$study/whole"
# From uniform ranks on, and never far from what has been played.
(AGENTS=model_based && search "$WHOLE" "$study/near" agent.far=0 'agent.rules=[{_target_: agents.UniformRank}]')

# The encoder alone, as LiteASR does (arXiv 2502.20583): 0.97 of the whole is 0.86 of the encoder, 0.95 is 0.77.
layers=
for layer in 0 1 2 3; do
    layers="$layers${layers:+, }encoder.layers.$layer.self_attn: [32, 64, 96, 128, 160]"
    for matrix in fc1 fc2; do layers="$layers, encoder.layers.$layer.$matrix: [48, 96, 144, 192, 256]"; done
done
(AGENTS="model_based ppo" && search "$ENCODER" "$study/encoder" search_space=explicit "search_space.candidates={$layers}")
