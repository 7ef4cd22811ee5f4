"""The inputs of a model's matrices while it recognises speech, and their second moments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from shrinkml_env.compression.canonical import one_thread
from shrinkml_env.compression.modules import LOW_RANK_MODULES, module_matrices
from shrinkml_env.compression.protocol import CompressibleModel, in_training_mode, require_length
from shrinkml_env.compression.svd import weights_of
from shrinkml_env.data.sets import UtteranceSpec, load_utterances
from shrinkml_env.progress import track

__all__ = ["InputMoments", "calibration_waveforms", "second_moments", "watched_inputs"]


_CHUNK = 512
"""The number of vectors to collect before their products are computed: a decoder's come one by one."""


class InputMoments:
    """The sums from which the second moment of one matrix's inputs is computed.

    Attributes:
        products: Sum of x x^T, float64, (columns, columns); None if there was no x.
        positions: Number of x.
        lookups: How often each row was looked up, float64, (rows,); None if none was.
    """

    def __init__(self) -> None:
        self.products: Tensor | None = None
        self.positions = 0
        self.lookups: Tensor | None = None
        self._pending: list[Tensor] = []
        self._num_pending = 0

    def add(self, inputs: Tensor, rows: int) -> None:
        """Add inputs: vectors, (positions, columns), or integers, the rows that were looked up, (positions,)."""
        if not inputs.is_floating_point():
            counts = torch.bincount(inputs, minlength=rows).double()
            self.lookups = counts if self.lookups is None else self.lookups + counts
            return
        # A copy: the model may write over its activations.
        self._pending.append(inputs.to(torch.float64, copy=True))
        self._num_pending += len(inputs)
        if self._num_pending >= _CHUNK:
            self._multiply()

    def _multiply(self) -> None:
        vectors = torch.cat(self._pending)
        products = vectors.T @ vectors
        self.products = products if self.products is None else self.products + products
        self.positions += len(vectors)
        self._pending.clear()
        self._num_pending = 0

    def moment(self) -> Tensor | None:
        """Return the second moment, see `second_moments`; None if there was no input."""
        if self._num_pending:
            self._multiply()
        if self.products is None:
            # Add-one smoothing: words that the calibration speech lacks occur in other speech.
            return None if self.lookups is None else ((self.lookups + 1) / (self.lookups + 1).sum()).cpu()
        moment = self.products / self.positions
        if self.lookups is not None:
            moment += torch.eye(len(moment)).to(moment) * self.lookups.sum() / (len(self.lookups) * self.positions)
        return moment.cpu()


def calibration_waveforms(model: CompressibleModel, speech: UtteranceSpec) -> list[Tensor]:
    """Return the waveforms of calibration speech.

    Args:
        model: What the speech is for.
        speech: What `load_utterances` takes.

    Raises:
        ValueError: There is no such set, or an utterance is too short for the model.
        FileNotFoundError: The set's folder is missing.
    """
    utterances = load_utterances(speech, "calibration")
    for utterance in utterances:
        require_length(model, utterance.waveform.numel(), f"utterance {utterance.id!r}")
    return [utterance.waveform for utterance in utterances]


def second_moments(
    model: CompressibleModel, waveforms: Sequence[Tensor], matrices: Iterable[str] | None = None
) -> dict[str, Tensor]:
    """Return E[x x^T], not centred, of the vectors x that each matrix is multiplied with while a model runs.

    A matrix that is looked up (an embedding) is multiplied with one-hot vectors from the left; their moment is
    diagonal and holds the frequencies of the rows, which are estimated with add-one smoothing.

    One that serves both ways (tied embedding and output layers) has output vectors x on the right and one-hot vectors
    on the left. No pair of factors is known to minimise the sum of both squared errors, but one does if all rows are
    looked up equally often: a look-up's expected squared error is then that of a product with white x of variance
    1 / rows. So I / rows is added for each look-up, and the row frequencies are left out: the output layer uses every
    row at every step, a look-up uses one.

    The waveforms are recognised one at a time, without padding, on one thread.

    Args:
        model: An uncompressed model in evaluation mode; not changed.
        waveforms: 1-D float32 samples at 16 kHz.
        matrices: Names of the matrices to look at; None for all of the model's layers.

    Returns:
        Matrix name -> float64 on the CPU: (columns, columns); or (rows,) for one that is only looked up. A matrix that
        was not used, or only by code that does not call its module, is left out.

    Raises:
        ValueError: The model is in training mode, or a name is not a matrix of it.
    """
    wanted = {matrix.name: (matrix, InputMoments()) for matrix, _ in weights_of(model, matrices)}

    def add(name: str, vectors: Tensor) -> None:
        if name in wanted:
            matrix, sums = wanted[name]
            sums.add(vectors, matrix.rows)

    with one_thread(), watched_inputs(model, add):
        for waveform in track(waveforms, "calibrating", "utterance"):
            model.recognise([waveform])
        moments = {name: sums.moment() for name, (_, sums) in wanted.items()}
    return {name: moment for name, moment in moments.items() if moment is not None}


@contextmanager
def watched_inputs(model: CompressibleModel, watch: Callable[[str, Tensor], object]) -> Iterator[None]:
    """Call a function with all that the matrices of a model's layers are multiplied with, as long as the context lasts.

    Args:
        model: An uncompressed model in evaluation mode.
        watch: Called with the name of a matrix and the vectors, (positions, columns), or with the indices of the rows
            that were looked up, (positions,) integers; in the order in which the model's modules are called. The model
            may write over the vectors afterwards.

    Raises:
        ValueError: The model is in training mode.
    """
    network = cast(nn.Module, model)
    if in_training_mode(network):
        raise ValueError(
            "the model is in training mode, in which dropout changes the inputs of its matrices: call eval()"
        )
    names = {id(weight): matrix.name for matrix, weight in weights_of(model)}

    def hook_of(module: nn.Module) -> Callable[..., None]:
        matrix_inputs = LOW_RANK_MODULES[type(module)].matrix_inputs
        signature = inspect.signature(module.forward)
        parameters = dict(module.named_parameters(remove_duplicate=False))

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
            inputs = matrix_inputs(module, signature.bind(*args, **kwargs).arguments, output)
            for parameter, vectors in inputs.items():
                name = names.get(id(parameters.get(parameter)))
                if name is not None:
                    watch(name, vectors)

        return hook

    handles: list[RemovableHandle] = [
        # Before hooks that change the output.
        module.register_forward_hook(hook_of(module), prepend=True, with_kwargs=True)
        for module in network.modules()
        if module_matrices(module)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
