"""Folders as Hugging Face's libraries write them, of tiny models with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch import Tensor, nn

from shrinkml_env.asr.huggingface.folder import import_transformers
from tests.helpers.models import tones

TEXTS = ["set an alarm for seven thirty", "call martin's sister", "play the quick brown fox", "jazz vow"]
LETTERS = " 'abcdefghijklmnopqrstuvwxyz"


def waveforms() -> list[Tensor]:
    """Five utterances of at most two seconds."""
    return [wave[:30_000] for wave in tones(5)]


def _network(network_class: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return network_class(config)


def _save(folder: Path, network: Any, *processors: Any, seed: int = 0) -> Path:
    """With larger weights than a fresh model has, so that the transcripts depend on what is heard."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if type(module) in (nn.Linear, nn.Embedding, nn.Conv1d):
            shape = module.weight.shape
            module.weight.data = 2 * torch.randn(shape, generator=generator) / shape[1:].numel() ** 0.5
    for part in (network.half(), *processors):
        part.save_pretrained(folder)
    return folder


def _byte_tokenizer(folder: Path, specials: list[str]) -> dict[str, int]:
    """Writes byte-level BPE of no merges; returns the ids of its tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = sorted(ByteLevel.alphabet()) + specials
    vocabulary = {token: index for index, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return vocabulary


def make_whisper(folder: Path, languages: tuple[str, ...] = ()) -> Path:
    """Hears two seconds at once."""
    transformers = import_transformers()
    marks = [f"<|{language}|>" for language in languages]
    specials = ["<|endoftext|>", "<|startoftranscript|>", *marks, "<|transcribe|>", "<|notimestamps|>"]
    ids = _byte_tokenizer(folder, specials)
    (folder / "normalizer.json").write_text(json.dumps({"colour": "color"}))
    tokenizer = transformers.WhisperTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.add_special_tokens({"additional_special_tokens": specials})
    config = transformers.WhisperConfig(
        vocab_size=len(ids),
        num_mel_bins=10,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=40,
        decoder_ffn_dim=40,
        max_source_positions=100,
        max_target_positions=60,
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"],
        decoder_start_token_id=ids["<|startoftranscript|>"],
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    network = _network(transformers.WhisperForConditionalGeneration, config)
    network.generation_config = transformers.GenerationConfig(
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        max_length=60,
        suppress_tokens=[ids["!"], ids["<|startoftranscript|>"]],
        begin_suppress_tokens=[ids["a"], ids["<|endoftext|>"]],
        is_multilingual=bool(languages),
        no_timestamps_token_id=ids["<|notimestamps|>"],
        return_timestamps=False,
        **({"lang_to_id": {mark: ids[mark] for mark in marks}} if languages else {}),
        **({"task_to_id": {"transcribe": ids["<|transcribe|>"]}} if languages else {}),
    )
    return _save(folder, network, tokenizer, transformers.WhisperFeatureExtractor(feature_size=10, chunk_length=2))


def make_speech2text(folder: Path, **settings: Any) -> Path:
    """Sentencepiece, two subsampling convolutions over filter banks."""
    transformers = import_transformers()
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(TEXTS * 10))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "spm"), vocab_size=50, model_type="bpe", pad_id=1, bos_id=0,
        eos_id=2, unk_id=3, minloglevel=2,
    )  # fmt: skip
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
    vocabulary = {processor.id_to_piece(index): index for index in range(len(processor))}
    (folder / "words.json").write_text(json.dumps(vocabulary))
    tokenizer = transformers.Speech2TextTokenizer(folder / "words.json", folder / "spm.model", do_lower_case=True)
    config = transformers.Speech2TextConfig(
        vocab_size=len(vocabulary),
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=40,
        decoder_ffn_dim=40,
        conv_channels=24,
        input_feat_per_channel=20,
        max_source_positions=200,
        max_target_positions=60,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=2,
        **settings,
    )
    network = _network(transformers.Speech2TextForConditionalGeneration, config)
    return _save(
        folder, network, tokenizer, transformers.Speech2TextFeatureExtractor(feature_size=20, num_mel_bins=20), seed=2
    )


def make_moonshine(folder: Path) -> Path:
    """Convolutions over samples, rotary positions."""
    transformers = import_transformers()
    ids = _byte_tokenizer(folder, ["<unk>", "<s>", "</s>"])
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    tokens = Tokenizer(models.BPE(ids, []))
    tokens.pre_tokenizer, tokens.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    config = transformers.MoonshineConfig(
        vocab_size=len(ids),
        hidden_size=16,
        intermediate_size=40,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        max_position_embeddings=60,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        pad_token_id=ids["</s>"],
        decoder_start_token_id=ids["<s>"],
    )
    network = _network(transformers.MoonshineForConditionalGeneration, config)
    return _save(folder, network, tokenizer, transformers.Wav2Vec2FeatureExtractor(do_normalize=False))


def make_ctc(folder: Path, kind: str, **settings: Any) -> Path:
    """Wav2Vec2 or HuBERT; the tokenizer's blank is its padding."""
    transformers = import_transformers()
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS[1:]])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=40,
        conv_dim=[12, 14, 16],
        conv_kernel=[10, 3, 3],
        conv_stride=[5, 4, 4],
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=6,
        num_conv_pos_embedding_groups=2,
        pad_token_id=0,
        **settings,
    )
    network = _network(getattr(transformers, f"{kind}ForCTC"), config)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    return _save(folder, network, tokenizer, transformers.Wav2Vec2FeatureExtractor())


MAKERS = {
    "whisper": make_whisper,
    "speech2text": make_speech2text,
    "moonshine": make_moonshine,
    "wav2vec2": lambda folder: make_ctc(folder, "Wav2Vec2"),
    "hubert": lambda folder: make_ctc(folder, "Hubert", feat_extract_norm="layer", do_stable_layer_norm=True),
}
