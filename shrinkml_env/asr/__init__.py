"""Recognisers: the LAS model with features, subwords, decoding and training; adapters to models of other libraries."""

from shrinkml_env.asr.decoding import Decoding
from shrinkml_env.asr.joint import JointLAS
from shrinkml_env.asr.las import LAS
from shrinkml_env.asr.las_modules import LASConfig
from shrinkml_env.asr.objectives import Distillation, JointCTCAttention
from shrinkml_env.asr.recogniser import Recogniser
from shrinkml_env.asr.tokenizer import Tokenizer
from shrinkml_env.asr.torchaudio_models import TorchaudioCTC
from shrinkml_env.asr.zoo import SHIPPED_MODELS, load_model
from shrinkml_env.data.augment import Augmentation

__all__ = [
    "LAS",
    "SHIPPED_MODELS",
    "Augmentation",
    "Decoding",
    "Distillation",
    "JointCTCAttention",
    "JointLAS",
    "LASConfig",
    "Recogniser",
    "Tokenizer",
    "TorchaudioCTC",
    "load_model",
]
