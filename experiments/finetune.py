"""Fine-tune a compressed model: ``python -m experiments.finetune seed_model=DIR [distillation=original]``.

DIR is the folder of a saved model, or of a run of a search or of `experiments.seed_model`; a dense model such as
``seed_model=las_small`` can be trained further as well. The model stays factored, and the ranks do not change: U and V
are trained, and a model in pivoting form is trained as two factors and changed back. The same command resumes a run
that was stopped. The run directory contains the model and ``result.json``.
To use several processes: ``torchrun --nproc-per-node N -m experiments.finetune``.
"""

from __future__ import annotations

from omegaconf import DictConfig

from experiments.common.command import command
from experiments.common.finetuning import finetune
from experiments.common.kinds import NAME
from experiments.common.training import training_processes


@command("finetune", seed_model=NAME)
def main(config: DictConfig) -> None:
    """Run one process of one fine-tuning."""
    with training_processes(config.device):
        finetune(config)


if __name__ == "__main__":
    main()
