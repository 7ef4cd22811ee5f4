#!/bin/sh
# The study "with retraining" and "iterated": seed models of three sizes, fine-tuned with and without distillation, beside
# the dense model trained for as long again. Whatever has ended is skipped and whatever was stopped resumes, so run it
# again at will. From the root of a checkout:
#   CORES=2 EPOCHS=1 sh docs/results/retraining.sh data.train.root=data/corpus
# The arguments are overrides for every training. Tables: python -m experiments.summary outputs=outputs/study/finetune
set -eu
: "${CORES:=1}" "${EPOCHS:=1}" "${SIZES:=0.333 0.2 0.125}" "${AGENTS:=model_based}" "${RULES:=uniform profile knapsack}" "${BUDGET:=200}"
export TQDM_DISABLE=1 OMP_NUM_THREADS=1
study=outputs/study
many() { xargs -P "$CORES" -L 1 python -m "$@"; }

# Seed models: by a search, by rules.
for size in $SIZES; do for agent in $AGENTS; do
    # The model-based agent keeps to the size by itself; the actions of others are clipped.
    [ "$agent" = model_based ] && constraint=check || constraint=clip
    echo "agent=$agent constraint=$constraint constraint.budget=$size outputs=$study/seeds/$size"
done; done | many experiments.search reward=accuracy "budget=$BUDGET" seed=0
for size in $SIZES; do for rule in $RULES; do
    echo "agent=$rule size=$size outputs=$study/seeds/$size"
done; done | many experiments.seed_model

# With retraining.
for way in none original; do
    echo "seed_model=las_small distillation=$way"
    for seed in "$study"/seeds/*/*; do echo "seed_model=$seed distillation=$way"; done
done | many experiments.finetune "training.epochs=$EPOCHS" "outputs=$study/finetune" "$@"

# Iterated against one shot, at the same last size and with the same training.
for sizes in '[0.6,0.4,0.25]' '[0.25]' '[0.5,0.3,0.2]' '[0.2]' '[0.4,0.2,0.125]' '[0.125]'; do
    echo "sizes=$sizes"
done | many experiments.iterate distillation=original "training.epochs=$EPOCHS" "outputs=$study/iterate" "$@"
