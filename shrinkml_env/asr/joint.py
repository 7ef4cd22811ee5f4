"""The LAS model re-arranged: all that reads one vector of the encoder is one matrix, and shares one right factor.

The states of an LSTM, in one direction, are read by its own recurrent matrix and by both input matrices of the next
layer. Factored together, [W_hh; W_ih; W_ih] = U V, they share V: joint factorisation (Prabhavalkar et al. 2016, arXiv
1603.08042). For LSTMs that follow each other directly it is what `nn.LSTM` with `proj_size` computes. Here layer
normalisation, and in the first layers max-pooling, stand between: the recurrent rows read the states, the others what
became of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor, nn

from shrinkml_env.asr.features import num_frames
from shrinkml_env.asr.las import LAS
from shrinkml_env.asr.las_modules import BidirectionalLSTM, Encoder, LASConfig, max_pool_time, take_frames
from shrinkml_env.compression import CompressibleModel, Layer, Workload, find_layers, ranks_of, register_architecture
from shrinkml_env.compression.modules import LOW_RANK_MODULES, Form, LowRank

__all__ = ["JointEncoder", "JointEncoderLayer", "JointLAS", "LowRankJointEncoderLayer"]

DIRECTIONS = ("forward", "backward")


class _EncoderLayer(nn.Module):
    """What an encoder layer computes, whether its matrices are dense or factored.

    A matrix W = U V is one of two parts: what its inputs are projected with, if anything, and what is applied then.
    """

    units: int
    time_reduction: int
    bias_ih: Tensor
    bias_hh: Tensor
    norm: nn.Module

    def project(self, name: str, inputs: Tensor) -> Tensor:
        """V x, or x of a dense matrix: (..., n) -> (..., r or n)."""
        return inputs

    def rows(self, name: str) -> Tensor:
        """U, or a dense matrix itself: (m, r or n)."""
        return getattr(self, name)  # type: ignore[no-any-return]

    def recurrent(self, name: str) -> Tensor:
        """W_hh, (4 units, units): the first rows of W."""
        return self.rows(name)[: 4 * self.units]

    def read(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What this layer's output is to the next one.

        Args:
            states: What `forward` returned, (batch, time, 2 * units).

        Returns:
            The vectors that the next layer's LSTMs read, (batch, time, k), and the matrix that they read them with,
            (8 units, k).
        """
        names = [f"weight_{direction}" for direction in DIRECTIONS]
        parts = zip(names, states.chunk(2, dim=2), strict=True)
        inputs = torch.cat([self.project(name, part) for name, part in parts], dim=2)
        return inputs, torch.cat([self.rows(name)[4 * self.units :] for name in names], dim=1)

    def scan(self, inputs: Tensor, lengths: Tensor, weight_ih: Tensor | None) -> Tensor:
        """The LSTMs of both directions: see `forward`; (batch, time, k) -> (batch, time, 2 * units)."""
        if weight_ih is None:
            inputs, weight_ih = self.project("weight_ih", inputs), self.rows("weight_ih")
        reverse = BidirectionalLSTM.reversal(lengths, inputs.shape[1])
        weights = [
            {
                "weight_ih_l0": in_direction,
                "weight_hh_l0": self.recurrent(f"weight_{direction}"),
                "bias_ih_l0": bias_ih,
                "bias_hh_l0": bias_hh,
            }
            for direction, in_direction, bias_ih, bias_hh in zip(
                DIRECTIONS, weight_ih.chunk(2), self.bias_ih.chunk(2), self.bias_hh.chunk(2), strict=True
            )
        ]
        kernel = nn.LSTM(inputs.shape[2], self.units, batch_first=True, device="meta")
        ahead, _ = torch.func.functional_call(kernel, weights[0], (inputs,))
        behind, _ = torch.func.functional_call(kernel, weights[1], (take_frames(inputs, reverse),))
        return torch.cat([ahead, take_frames(behind, reverse)], dim=2)

    def forward(self, inputs: Tensor, lengths: Tensor, weight_ih: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As the encoder layer of `LAS`.

        Args:
            inputs: (batch, time, k); of the first layer the features, of others what the layer before has to `read`.
            lengths: Of the utterances, (batch,).
            weight_ih: The matrix that it reads them with, (8 units, k), the forward LSTM's rows first; the first layer
                has its own.

        Returns:
            (batch, ceil(time / time_reduction), 2 * units) and the new lengths.
        """
        return self.reduce(self.scan(inputs, lengths, weight_ih), lengths)

    def reduce(self, outputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What follows the LSTMs: see `forward`."""
        return max_pool_time(self.norm(outputs), lengths, self.time_reduction)


class JointEncoderLayer(_EncoderLayer):
    """A bidirectional LSTM, layer normalisation, and max-pooling, with the next layer's input matrices.

    Its parameters `weight_forward` and `weight_backward` hold W_hh of a direction, (4 units, units), and below it, but
    for the last layer, the columns of the next layer's two W_ih that this direction feeds: (12 units, units).

    Args:
        input_size: Of the first layer, which has a matrix `weight_ih`, (8 units, input_size), of both directions; None
            for the others, whose input matrices are in the layer before.
        units: LSTM units per direction.
        time_reduction: Frames that are pooled.
        last: No layer follows.
    """

    def __init__(self, input_size: int | None, units: int, time_reduction: int, last: bool) -> None:
        super().__init__()
        self.units = units
        self.time_reduction = time_reduction
        shapes: dict[str, tuple[int, ...]] = {} if input_size is None else {"weight_ih": (8 * units, input_size)}
        for direction in DIRECTIONS:
            shapes[f"weight_{direction}"] = ((4 if last else 12) * units, units)
        for name, shape in {**shapes, "bias_ih": (8 * units,), "bias_hh": (8 * units,)}.items():
            # As `nn.LSTM`.
            self.register_parameter(name, nn.Parameter(torch.empty(shape).uniform_(-(units**-0.5), units**-0.5)))
        self.norm = nn.LayerNorm(2 * units)


class LowRankJointEncoderLayer(LowRank, JointEncoderLayer):
    """`JointEncoderLayer` with factored matrices.

    The next layer's kernel reads V x with U; W_hh is multiplied back for its kernel, as `LowRankLSTM` does. There is
    one form only: the others would move work from this layer to the next.
    """

    kind = "lstm"

    @staticmethod
    def matrix_kinds(module: JointEncoderLayer) -> dict[str, str]:
        """See `LowRank.matrix_kinds`. What holds a W_hh is called one."""
        kinds = {"weight_ih": "lstm_ih"} if "weight_ih" in module._parameters else {}
        return kinds | {f"weight_{direction}": "lstm_hh" for direction in DIRECTIONS}

    @staticmethod
    def matrix_inputs(module: Any, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`: the states before each step, and the outputs where a next layer reads them.

        The states are computed anew, since the module does not return them.
        """
        lengths = call["lengths"]
        found: dict[str, list[Tensor]] = {f"weight_{direction}": [] for direction in DIRECTIONS}
        for states, length in zip(module.scan(call["inputs"], lengths, call.get("weight_ih")), lengths, strict=True):
            ahead, behind = states[:length].chunk(2, dim=1)
            start = torch.zeros_like(ahead[:1])
            found["weight_forward"].append(torch.cat([start, ahead[:-1]]))
            found["weight_backward"].append(torch.cat([behind[1:], start]))
        if len(module.weight_forward) > 4 * module.units:
            for states, length in zip(*output, strict=True):
                for parts, read in zip(found.values(), states[:length].chunk(2, dim=1), strict=True):
                    parts.append(read)
        inputs = {name: torch.cat(parts) for name, parts in found.items()}
        if call.get("weight_ih") is None:
            heard = zip(call["inputs"], lengths, strict=True)
            inputs["weight_ih"] = torch.cat([features[:length] for features, length in heard])
        return inputs

    @property
    def forms(self) -> tuple[Form, ...]:
        """Factored."""
        return ("factored",)

    def project(self, name: str, inputs: Tensor) -> Tensor:
        """V x, or x of a dense matrix: (..., n) -> (..., r or n)."""
        return self._reduce(name, inputs) if name in self.ranks else inputs

    def rows(self, name: str) -> Tensor:
        """U, or a dense matrix itself: (m, r or n)."""
        return self._factor(name, "u") if name in self.ranks else super().rows(name)

    def recurrent(self, name: str) -> Tensor:
        """W_hh, (4 units, units): the first rows of W."""
        if name not in self.ranks:
            return super().recurrent(name)
        product: Tensor = self._cached(
            f"{name}, recurrent", lambda: self._factor(name, "u")[: 4 * self.units] @ self._right(name)
        )
        return product


LOW_RANK_MODULES[JointEncoderLayer] = LowRankJointEncoderLayer


class JointEncoder(Encoder):
    """Features -> states, fewer in time."""

    @staticmethod
    def make_layers(config: LASConfig) -> list[nn.Module]:
        """With random weights."""
        last = len(config.time_reduction) - 1
        return [
            JointEncoderLayer(None if index else config.mel_channels, config.encoder_units, factor, index == last)
            for index, factor in enumerate(config.time_reduction)
        ]

    def advance(self, index: int, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """One layer: (batch, time, size) -> (batch, reduced time, 2 * units), and the new lengths (batch,)."""
        layers: Any = self.layers
        if index == 0:
            states, lengths = layers[0](states, lengths)
        else:
            inputs, weight_ih = layers[index - 1].read(states)
            states, lengths = layers[index](inputs, lengths, weight_ih)
        return self.dropout(states), lengths

    def lstm_weights(self, index: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """See `Encoder.lstm_weights`."""
        layers: Any = self.layers
        own, before = layers[index], layers[index - 1]
        rows = 4 * own.units
        recurrent = [getattr(own, f"weight_{direction}")[:rows] for direction in DIRECTIONS]
        if index:
            weight_ih = torch.cat([getattr(before, f"weight_{direction}")[rows:] for direction in DIRECTIONS], dim=1)
        else:
            weight_ih = own.weight_ih
        return list(zip(weight_ih.chunk(2), recurrent, (own.bias_ih + own.bias_hh).chunk(2), strict=True))


@register_architecture("las_joint")
class JointLAS(LAS):
    """A `LAS` model whose encoder's matrices are stacked by what they read; the same function, size and file format.

    Layers: ``encoder.0.inputs``, the first W_ih of both directions; ``encoder.0`` and so on, in each direction the
    recurrent matrix of a layer with what the next one reads it with; ``encoder.5.recurrent``, the last W_hh (the number
    is that of the last layer); and the decoder's as in `LAS`.
    """

    encoder_class = JointEncoder

    @classmethod
    def from_las(cls, model: CompressibleModel) -> Self:
        """A copy of a dense model, re-arranged.

        Raises:
            ValueError: It is no `LAS`, or compressed.
        """
        if not isinstance(model, LAS) or model.architecture != LAS.architecture:
            raise ValueError(f"joint factorisation is for models of architecture 'las', this is {model.architecture!r}")
        if ranks_of(model):
            raise ValueError("this model is compressed already: take the original, or decompress(model)")
        joint = cls(model.config, model.tokenizer, model.decoding)
        others = [name for name in joint.state_dict() if name in model.state_dict()]
        joint.load_state_dict({name: model.state_dict()[name] for name in others} | _stacked(model))
        joint.storage_dtype = model.storage_dtype
        return joint.to(next(model.parameters()).device).train(model.training)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """See the class."""
        exclude = ("ctc", "decoder.attention.location", "decoder.embedding")
        last = len(self.config.time_reduction) - 1
        layers: list[Layer] = []
        for layer in find_layers(self, exclude=exclude):
            if not layer.name.startswith("encoder.layers."):
                layers.append(layer)
                continue
            index = int(layer.name.split(".")[2])
            inputs, states = layer.matrices[:-2], layer.matrices[-2:]
            if inputs:
                layers.append(replace(layer, name=f"encoder.{index}.inputs", matrices=inputs))
            name = f"encoder.{index}.recurrent" if index == last else f"encoder.{index}"
            layers.append(replace(layer, name=name, matrices=states))
        return tuple(layers)

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """Each encoder layer is one. The matrix that it reads its inputs with belongs to the one before."""
        names: dict[int, list[str]] = {}
        for layer in self.layers:
            if layer.name.startswith("encoder."):
                names.setdefault(int(layer.name.split(".")[1]), []).append(layer.name)
        return tuple(map(tuple, names.values()))

    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        """As of `LAS`, where the rows of one matrix work at different rates if there is pooling between.

        Of a direction's 12 rows (in units of `encoder_units`) 4 read the T states before pooling and 8 the T' outputs
        behind it: a row works (T + 2 T') / 3 times on average, rounded down. V works T + T' times; what exceeds its
        share in this is counted as `Workload.lookups`.
        """
        encoder = [0] * (len(self.config.time_reduction) + 1)
        for samples in num_samples:
            lengths = self.config.encoder_lengths(num_frames(samples))
            encoder = [total + length for total, length in zip(encoder, lengths, strict=True)]
        plain = super().workload(num_samples, texts)
        positions, lookups = dict(plain.positions), {}
        for index, (states, outputs) in enumerate(pairwise(encoder[:-1])):
            for direction in DIRECTIONS:
                name = f"encoder.layers.{index}.weight_{direction}"
                positions[name] = (states + 2 * outputs) // 3
                lookups[name] = states + outputs - positions[name]
        return Workload(positions, plain.other_macs, lookups)


def _stacked(model: LAS) -> dict[str, Tensor]:
    """The LSTM parameters of a `LAS` model's encoder as those of a `JointEncoder`."""
    layers: Any = model.encoder.layers
    lstms = [[layer.lstm.forward_lstm, layer.lstm.backward_lstm] for layer in layers]
    found = {"encoder.layers.0.weight_ih": torch.cat([lstm.weight_ih_l0 for lstm in lstms[0]])}
    for index, (own, readers) in enumerate(zip(lstms, [*lstms[1:], []], strict=True)):
        path = f"encoder.layers.{index}"
        for place, (direction, lstm) in enumerate(zip(DIRECTIONS, own, strict=True)):
            read = [reader.weight_ih_l0.chunk(2, dim=1)[place] for reader in readers]
            found[f"{path}.weight_{direction}"] = torch.cat([lstm.weight_hh_l0, *read])
        for bias in ("bias_ih", "bias_hh"):
            found[f"{path}.{bias}"] = torch.cat([getattr(lstm, f"{bias}_l0") for lstm in own])
    return {name: tensor.detach() for name, tensor in found.items()}
