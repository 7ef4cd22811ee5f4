"""The one way in which two correct computations may differ: the best two units are almost equally probable."""

import itertools

import torch

from shrinkml_env.asr.decoding import greedy_search


def units_of(model, waveforms):
    """What greedy search finds in each utterance of one batch."""
    with torch.inference_mode():
        state = model.begin(waveforms)
        for stage in range(len(model.stages)):
            state = model.advance(stage, state)
        limits = torch.tensor([model.decoding.token_limit(waveform.numel()) for waveform in waveforms])
        found = greedy_search(
            model.decoder.step, model.decoder.start(*state), limits, model.tokenizer.eos, model.decoding
        )
    return [units for units, _ in found]


def margin(model, waveform, one, other):
    """Between the best two log-probabilities at the first unit in which two transcripts differ."""
    common = [unit for unit, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]
    with torch.inference_mode():
        state = model.begin([waveform])
        for stage in range(len(model.stages)):
            state = model.advance(stage, state)
        state = model.decoder.start(*state)
        for unit in [model.tokenizer.eos, *common]:
            logits, state = model.decoder.step(state, torch.tensor([unit]))
    first, second = logits.log_softmax(1)[0].topk(2).values.tolist()
    return first - second
