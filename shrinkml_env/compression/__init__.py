"""Low-rank compression: layers and matrices, factorisations, low-rank modules, counting, and saved models."""

from shrinkml_env.compression.activation_aware import ActivationAwareSVD
from shrinkml_env.compression.architectures import architectures, register_architecture
from shrinkml_env.compression.calibration import calibration_waveforms, second_moments
from shrinkml_env.compression.checkpoint import file_bytes, load_compressed, save_compressed
from shrinkml_env.compression.compensation import CompensatedSVD
from shrinkml_env.compression.compress import compress
from shrinkml_env.compression.counting import (
    compressed_parameters,
    count_macs,
    count_parameters,
    encoder_parameters,
    parameters_at,
)
from shrinkml_env.compression.decompress import decompress
from shrinkml_env.compression.discovery import arranged_layers, find_layers, form_of, ranks_of
from shrinkml_env.compression.factors import Factorisation, Factors
from shrinkml_env.compression.forms import change_form
from shrinkml_env.compression.gradients import SampledGradients, sampled_gradients
from shrinkml_env.compression.inference import optimise_for_inference
from shrinkml_env.compression.layers import (
    FactorForm,
    Layer,
    Matrix,
    arrange_layers,
    canonical_ranks,
    matrix_ranks,
    merge_layers,
    ranks_by_matrix,
    split_layers,
)
from shrinkml_env.compression.lossless import require_lossless
from shrinkml_env.compression.number_formats import exact_storage_dtype, int8_scales, require_storable, round_to_storage
from shrinkml_env.compression.protocol import (
    BATCH,
    CompressibleModel,
    GroupedModel,
    Hypothesis,
    PredictiveModel,
    StagedModel,
    State,
    Workload,
    in_batches,
    recognise_in_batches,
    recognise_in_stages,
    require_length,
)
from shrinkml_env.compression.quantise import quantise
from shrinkml_env.compression.svd import SVD, kept_energy
from shrinkml_env.compression.tensors import inference_tensors
from shrinkml_env.compression.variances import output_variances

__all__ = [
    "BATCH",
    "SVD",
    "ActivationAwareSVD",
    "CompensatedSVD",
    "CompressibleModel",
    "FactorForm",
    "Factorisation",
    "Factors",
    "GroupedModel",
    "Hypothesis",
    "Layer",
    "Matrix",
    "PredictiveModel",
    "SampledGradients",
    "StagedModel",
    "State",
    "Workload",
    "architectures",
    "arrange_layers",
    "arranged_layers",
    "calibration_waveforms",
    "canonical_ranks",
    "change_form",
    "compress",
    "compressed_parameters",
    "count_macs",
    "count_parameters",
    "decompress",
    "encoder_parameters",
    "exact_storage_dtype",
    "file_bytes",
    "find_layers",
    "form_of",
    "in_batches",
    "inference_tensors",
    "int8_scales",
    "kept_energy",
    "load_compressed",
    "matrix_ranks",
    "merge_layers",
    "optimise_for_inference",
    "output_variances",
    "parameters_at",
    "quantise",
    "ranks_by_matrix",
    "ranks_of",
    "recognise_in_batches",
    "recognise_in_stages",
    "register_architecture",
    "require_length",
    "require_lossless",
    "require_storable",
    "round_to_storage",
    "sampled_gradients",
    "save_compressed",
    "second_moments",
    "split_layers",
]
