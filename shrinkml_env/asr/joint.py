"""The LAS model with joint encoder matrices: all matrices with the same input are stacked and share one right factor.

The states of an LSTM, in one direction, are the input of its own recurrent matrix and of both input matrices of the
next layer. Factored together, [W_hh; W_ih; W_ih] = U V, these share V: joint factorisation (Prabhavalkar et al. 2016,
arXiv 1603.08042). For LSTMs that follow each other directly this is what `nn.LSTM` with `proj_size` computes. Here
layer normalisation, and in the first layers max-pooling, are in between: the recurrent rows are applied to the states,
the other rows to the normalised and pooled states.
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
from shrinkml_env.compression.modules import LOW_RANK_MODULES, Execution, LowRank

__all__ = ["JointEncoder", "JointEncoderLayer", "JointLAS", "LowRankJointEncoderLayer"]

DIRECTIONS = ("forward", "backward")


class _EncoderLayer(nn.Module):
    """The arithmetic of an encoder layer, for dense and factored matrices.

    A matrix W = U V is applied in two steps: `project` multiplies the inputs by V, and `rows` returns U. For a dense
    matrix `project` returns the inputs and `rows` the matrix.
    """

    units: int
    time_reduction: int
    bias_ih: Tensor
    bias_hh: Tensor
    norm: nn.Module

    def project(self, name: str, inputs: Tensor) -> Tensor:
        """Return V x for each input x, or x itself for a dense matrix: (..., n) -> (..., r or n)."""
        return inputs

    def rows(self, name: str) -> Tensor:
        """Return U, or the matrix itself if it is dense: (m, r or n)."""
        return getattr(self, name)  # type: ignore[no-any-return]

    def recurrent(self, name: str) -> Tensor:
        """Return W_hh, the first rows of W, (4 units, units)."""
        return self.rows(name)[: 4 * self.units]

    def read(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next layer's inputs and input matrix.

        Args:
            states: The output of `forward`, (batch, time, 2 * units).

        Returns:
            The inputs of the next layer's LSTMs, (batch, time, k), and the input matrix of both, (8 units, k).
        """
        names = [f"weight_{direction}" for direction in DIRECTIONS]
        parts = zip(names, states.chunk(2, dim=2), strict=True)
        inputs = torch.cat([self.project(name, part) for name, part in parts], dim=2)
        return inputs, torch.cat([self.rows(name)[4 * self.units :] for name in names], dim=1)

    def scan(self, inputs: Tensor, lengths: Tensor, weight_ih: Tensor | None) -> Tensor:
        """Compute the LSTMs of both directions, see `forward`: (batch, time, k) -> (batch, time, 2 * units)."""
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
        """Compute the layer, as the encoder layer of `LAS`.

        Args:
            inputs: The features for the first layer, for others the inputs that `read` of the layer before returns,
                (batch, time, k).
            lengths: Number of frames of each utterance, (batch,).
            weight_ih: The input matrix that `read` returns, (8 units, k), with the forward LSTM's rows first; None for
                the first layer, which has its own.

        Returns:
            (batch, ceil(time / time_reduction), 2 * units) and the new lengths.
        """
        return self.reduce(self.scan(inputs, lengths, weight_ih), lengths)

    def reduce(self, outputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Apply layer normalisation and max-pooling, see `forward`."""
        return max_pool_time(self.norm(outputs), lengths, self.time_reduction)


class JointEncoderLayer(_EncoderLayer):
    """A bidirectional LSTM, layer normalisation and max-pooling; it also holds the next layer's input matrices.

    The parameters `weight_forward` and `weight_backward` hold W_hh of one direction, (4 units, units). In all layers
    but the last they continue below with those columns of the next layer's two W_ih that are applied to this
    direction's states: (12 units, units) in all.

    Args:
        input_size: Size of the features for the first layer, which has its own input matrix `weight_ih` of both
            directions, (8 units, input_size); None for the others, whose input matrices are in the layer before.
        units: LSTM units per direction.
        time_reduction: Number of frames that are pooled into one.
        last: Whether this is the last layer.
    """

    def __init__(self, input_size: int | None, units: int, time_reduction: int, last: bool) -> None:
        super().__init__()
        self.units = units
        self.time_reduction = time_reduction
        shapes: dict[str, tuple[int, ...]] = {} if input_size is None else {"weight_ih": (8 * units, input_size)}
        for direction in DIRECTIONS:
            shapes[f"weight_{direction}"] = ((4 if last else 12) * units, units)
        for name, shape in {**shapes, "bias_ih": (8 * units,), "bias_hh": (8 * units,)}.items():
            # The initialisation of `nn.LSTM`.
            self.register_parameter(name, nn.Parameter(torch.empty(shape).uniform_(-(units**-0.5), units**-0.5)))
        self.norm = nn.LayerNorm(2 * units)


class LowRankJointEncoderLayer(LowRank, JointEncoderLayer):
    """`JointEncoderLayer` with factored matrices.

    The next layer's kernel applies U to V x; for this layer's kernel W_hh is multiplied out, as in `LowRankLSTM`. There
    is only one execution: another one would move work from this layer to the next.
    """

    kind = "lstm"

    @staticmethod
    def matrix_kinds(module: JointEncoderLayer) -> dict[str, str]:
        """See `LowRank.matrix_kinds`; a matrix that contains a W_hh has the kind ``"lstm_hh"``."""
        kinds = {"weight_ih": "lstm_ih"} if "weight_ih" in module._parameters else {}
        return kinds | {f"weight_{direction}": "lstm_hh" for direction in DIRECTIONS}

    @staticmethod
    def matrix_inputs(module: Any, call: Mapping[str, Any], output: Any) -> dict[str, Tensor]:
        """See `LowRank.matrix_inputs`: the states before each step, and in all layers but the last also the outputs.

        The states are computed again, since the module does not return them.
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
            pairs = zip(call["inputs"], lengths, strict=True)
            inputs["weight_ih"] = torch.cat([features[:length] for features, length in pairs])
        return inputs

    @property
    def executions(self) -> tuple[Execution, ...]:
        """See `LowRank.executions`; only ``"factored"``."""
        return ("factored",)

    def project(self, name: str, inputs: Tensor) -> Tensor:
        """See `JointEncoderLayer.project`."""
        return self._reduce(name, inputs) if name in self.ranks else inputs

    def rows(self, name: str) -> Tensor:
        """See `JointEncoderLayer.rows`."""
        return self._factor(name, "u") if name in self.ranks else super().rows(name)

    def recurrent(self, name: str) -> Tensor:
        """See `JointEncoderLayer.recurrent`."""
        if name not in self.ranks:
            return super().recurrent(name)
        product: Tensor = self._cached(
            f"{name}, recurrent", lambda: self._factor(name, "u")[: 4 * self.units] @ self._right(name)
        )
        return product


LOW_RANK_MODULES[JointEncoderLayer] = LowRankJointEncoderLayer


class JointEncoder(Encoder):
    """The encoder of `JointLAS`, see `Encoder`."""

    @staticmethod
    def make_layers(config: LASConfig) -> list[nn.Module]:
        """Return layers with random weights."""
        last = len(config.time_reduction) - 1
        return [
            JointEncoderLayer(None if index else config.mel_channels, config.encoder_units, factor, index == last)
            for index, factor in enumerate(config.time_reduction)
        ]

    def advance(self, index: int, states: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute one layer: (batch, time, size) -> (batch, reduced time, 2 * units), and the new lengths, (batch,)."""
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
    """A `LAS` model whose encoder matrices with the same input are stacked; function, size and file format are equal.

    The layers are ``encoder.0.inputs``, the first W_ih of both directions; ``encoder.0`` and so on, the recurrent
    matrix of each direction stacked with the next layer's input matrices; ``encoder.5.recurrent``, the last W_hh (5
    being the index of the last layer); and the decoder's layers as in `LAS`.
    """

    encoder_class = JointEncoder

    @classmethod
    def from_las(cls, model: CompressibleModel) -> Self:
        """Convert a dense `LAS` model; the result shares no memory with it.

        Raises:
            ValueError: The model is not a `LAS`, or is compressed.
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
        """The layers, in forward order; see the class."""
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
        """The layers in each stage: one stage for each encoder layer; its input matrix is in the stage before."""
        names: dict[int, list[str]] = {}
        for layer in self.layers:
            if layer.name.startswith("encoder."):
                names.setdefault(int(layer.name.split(".")[1]), []).append(layer.name)
        return tuple(map(tuple, names.values()))

    def workload(self, num_samples: Sequence[int], texts: Sequence[str]) -> Workload:
        """See `LAS.workload`; with pooling between two layers the rows of a matrix are applied at different rates.

        Of a direction's 12 blocks of `encoder_units` rows, 4 are applied to the T states before pooling and 8 to the T'
        outputs after it: `positions` is the average (T + 2 T') / 3, rounded down. V is applied T + T' times; the
        difference to the positions is counted as `Workload.lookups`.
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
    """Return the LSTM parameters of a `LAS` model's encoder, arranged as those of a `JointEncoder`."""
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
