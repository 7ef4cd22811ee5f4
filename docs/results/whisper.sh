#!/bin/sh
# A real model on real speech: Whisper tiny.en on utterances of ten speakers of LibriSpeech's test-other. One speaker
# calibrates the factorisation, two are searched on, two choose, five are reported. Whatever has ended is skipped and
# whatever was stopped resumes. From the root of a checkout:
#   ROOT=/data CORES=2 sh docs/results/whisper.sh       # /data holds LibriSpeech/test-other
# MODEL=hf:FOLDER takes the model from a folder. Table: python -m experiments.summary outputs=outputs/study/whisper/whole
set -eu
: "${ROOT:?the folder that holds LibriSpeech}" "${MODEL:=hf:openai/whisper-tiny.en}" "${CORES:=1}" "${BUDGET:=60}"
: "${AGENTS:=uniform energy tpe model_based ppo}" "${WHOLE:=0.8 0.6}" "${ENCODER:=0.91}"
export TQDM_DISABLE=1 OMP_NUM_THREADS=1
study=outputs/study/whisper
mkdir -p "$study"

speakers() {
    file=$study/$1.txt && shift
    for speaker; do ls "$ROOT/LibriSpeech/test-other/$speaker"/*/*.flac; done | sed 's|.*/||; s|\.flac$||' >"$file"
}
speakers calibration 1688
speakers proxy 1998 2033
speakers dev 2414 2609
speakers test 3005 3080 3331 367 533
part() { echo "{root: $ROOT, subset: test-other, ids: $study/$1.txt}"; }

search() {
    # Rules would not be themselves if their configurations were changed; model_based keeps to the size by itself.
    for agent in $AGENTS; do
        case $agent in uniform | energy | model_based) constraint=check ;; *) constraint=decrement ;; esac
        for size in $1; do echo "agent=$agent constraint=$constraint constraint.budget=$size"; done
    done | xargs -P "$CORES" -I {} sh -c 'set -f; line=$1; shift; exec python -m experiments.search $line "$@"' sh {} \
        "model.name=$MODEL" "proxy=$(part proxy)" "dev=$(part dev)" "test=$(part test)" reward=divergence "budget=$BUDGET" \
        factorisation=activation_aware "factorisation.calibration=$(part calibration)" "outputs=$2" ${3+"$3"} ${4+"$4"}
}

# WER against size on the reported speakers, with and without the calibration.
for way in svd activation_aware; do
    [ $way = svd ] || calibrate="factorisation.calibration=$(part calibration)"
    python -m experiments.uniform_curve "model.name=$MODEL" "set=$(part test)" "dense=[decoder.*]" \
        sizes=[0.99,0.97,0.95,0.93,0.91,0.89] "outputs=$study/uniform" factorisation=$way ${calibrate+"$calibrate"}
done

# The whole model, the embedding included.
search "$WHOLE" "$study/whole"

# The encoder alone, as LiteASR does (arXiv 2502.20583): 0.91 of the whole is 0.59 of the encoder.
layers=
for layer in 0 1 2 3; do
    layers="$layers${layers:+, }encoder.layers.$layer.self_attn: [32, 64, 96, 128, 160]"
    for matrix in fc1 fc2; do layers="$layers, encoder.layers.$layer.$matrix: [48, 96, 144, 192, 256]"; done
done
search "$ENCODER" "$study/encoder" search_space=explicit "search_space.candidates={$layers}"
