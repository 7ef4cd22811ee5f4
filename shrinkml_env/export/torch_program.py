"""Export to `torch.export` programs: ``encoder.pt2`` and ``decoder.pt2``, which need only torch."""

from __future__ import annotations

from pathlib import Path

import torch

from shrinkml_env.compression import CompressibleModel
from shrinkml_env.export.las import ScanLSTM
from shrinkml_env.export.programs import quiet, require_las, traced_decoder, traced_encoder, write_companions

__all__ = ["write_torch"]


def write_torch(model: CompressibleModel, folder: Path) -> None:
    """Write the programs, and the files of `write_companions`, into an existing folder.

    Raises:
        ValueError: The model is not a LAS model.
    """
    las = require_las(model)
    with quiet():
        torch.export.save(traced_encoder(las, ScanLSTM), folder / "encoder.pt2")
        torch.export.save(traced_decoder(las), folder / "decoder.pt2")
    write_companions(las, folder)
