"""A table holds the measurements of every configuration of a small search space.

A search decides about named blocks of a model's layers, each with a few candidates. Every configuration was
measured on the proxy set, so that a search on the table recognises no speech and its regret is known exactly. The best
configurations, and many random ones, were measured on dev and on test as well.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shrinkml_env.asr import load_model
from shrinkml_env.compression import Workload, count_macs, parameters_at
from shrinkml_env.compression.factorisations import make_factorisation
from shrinkml_env.compression.layers import Layer, Matrix, canonical_ranks, name_with_form
from shrinkml_env.data.sets import count_utterances
from shrinkml_env.data.utterance import Utterance
from shrinkml_env.evaluation import EvaluationCache, Evaluator
from shrinkml_env.evaluation.result import Evaluation
from shrinkml_env.files import open_arrays, parse_json, write_atomic
from shrinkml_env.space.search_space import SearchSpace

__all__ = ["SETS", "SHIPPED_TABLES", "Table", "TableEvaluator"]

SETS = ("proxy", "dev", "test")
"""The utterance sets that a table holds."""

SHIPPED_TABLES = {
    "las_small": "assets/table.npz",
    "las_small_pivoting": "assets/table_pivoting.npz",
    "whisper_tiny_en": "assets/table_whisper_tiny_en.npz",
}
"""Name -> file of a table in the package: the embedded model with plain factors, and with the best ones; Whisper
tiny.en with the best ones, on real speech."""

_FORMAT = "shrinkml-table-1"


@dataclass(frozen=True)
class Table:
    """Word errors of every configuration of a search space.

    Configurations are numbered in the order of `itertools.product` over the candidates: the last block's candidate
    changes fastest.

    Attributes:
        model: Name of the model.
        blocks: Block name -> the names of its layers, in forward order.
        layers: The blocks as layers.
        candidates: Ranks of each block, ascending, dense last.
        singular_values: Matrix name -> its singular values, float32.
        original_params: Number of parameters of the original.
        positions: Set -> matrix name -> number of vectors that the matrix is multiplied with.
        other_macs: Set -> multiply-adds that do not depend on the ranks.
        lookups: Set -> matrix name -> number of its rows that are looked up; empty without an embedding.
        utterances: Set -> argument of `shrinkml_env.data.load_utterances` that loads it.
        words: Set -> number of reference words.
        edits: Set -> word errors of every configuration, (configurations,); -1 for a configuration that was not
            measured, which occurs on dev and test only.
        capped: Set -> number of utterances that reached their token limit, (configurations,); -1 likewise.
        divergence: Set -> divergence from the original, nats a unit, (configurations,) float32; NaN for a configuration
            that was not measured. Empty if no divergence was measured.
        factorisation: How the matrices were factored: a name in `FACTORISATIONS`, or a mapping with ``"name"`` and
            options.
        levels: As in `SearchSpace`.
    """

    model: str
    blocks: Mapping[str, Sequence[str]]
    layers: tuple[Layer, ...]
    candidates: tuple[tuple[int, ...], ...]
    singular_values: Mapping[str, NDArray[np.float32]]
    original_params: int
    positions: Mapping[str, Mapping[str, int]]
    other_macs: Mapping[str, int]
    utterances: Mapping[str, Any]
    words: Mapping[str, int]
    edits: Mapping[str, NDArray[np.int64]]
    capped: Mapping[str, NDArray[np.int64]]
    divergence: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    factorisation: Any = "svd"
    levels: tuple[tuple[int, ...], ...] | None = None
    lookups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @cached_property
    def search_space(self) -> SearchSpace:
        """The blocks and their candidates."""
        return SearchSpace(self.layers, self.candidates, levels=self.levels)

    @property
    def size(self) -> int:
        """The number of configurations."""
        return self.search_space.size

    def configurations(self) -> Iterator[dict[str, int]]:
        """Yield all configurations, in order."""
        return self.search_space.configurations()

    def index(self, ranks: Mapping[str, int]) -> int:
        """Return the index of a configuration; blocks that `ranks` does not name are dense.

        Raises:
            ValueError: A block is unknown, or a rank is not one of its candidates.
        """
        places = self.search_space.places(canonical_ranks(self.layers, ranks))
        return int(np.ravel_multi_index(places, self.search_space.counts))

    def evaluator(self, subset: str = "proxy") -> TableEvaluator:
        """Return an evaluator that looks measurements on one set up.

        Raises:
            ValueError: The table does not hold this set.
        """
        if subset not in self._evaluators:
            self._evaluators[subset] = TableEvaluator(self, subset)
        return self._evaluators[subset]

    @cached_property
    def _evaluators(self) -> dict[str, TableEvaluator]:
        """Set -> its evaluator, made once, since each may hold an evaluation for every configuration."""
        return {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_evaluators"}

    @cached_property
    def content(self) -> str:
        """The hash of the table's content, hexadecimal."""
        digest = hashlib.sha256(json.dumps(self._summary(), sort_keys=True).encode())
        for name, values in self._arrays().items():
            digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()

    def live_kwargs(self, subset: str = "proxy") -> dict[str, Any]:
        """Return arguments of ``gym.make("ShrinkML-v0", ...)`` for the same problem, measured without the table."""
        return {
            "model": self.model,
            "proxy": self.utterances[subset],
            "granularity": self.granularity,
            "factorisation": self.factorisation,
            "search_space": self.search_space,
        }

    @property
    def granularity(self) -> dict[str, list[str]]:
        """The blocks as an `Evaluator` takes them: name -> names of the layers that share a rank."""
        return {name: list(layers) for name, layers in self.blocks.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the table as a compressed NumPy archive without pickled objects."""
        content = io.BytesIO()
        np.savez_compressed(content, summary=np.array(json.dumps(self._summary())), **self._arrays())
        write_atomic(path, content.getvalue())

    def _summary(self) -> dict[str, Any]:
        # Tables of plain SVD without levels are described as before there was anything else, since their hash counts.
        later = {} if self.factorisation == "svd" else {"factorisation": self.factorisation}
        later |= {} if self.levels is None else {"levels": self.levels}
        later |= {"lookups": self.lookups} if any(self.lookups.values()) else {}
        return {
            **later,
            "format": _FORMAT,
            "model": self.model,
            "blocks": self.blocks,
            "layers": [
                {
                    "name": layer.name,
                    "kind": layer.kind,
                    "matrices": [_written(matrix) for matrix in layer.matrices],
                }
                for layer in self.layers
            ],
            "candidates": self.candidates,
            "original_params": self.original_params,
            "positions": self.positions,
            "other_macs": self.other_macs,
            "utterances": self.utterances,
            "words": self.words,
        }

    def _arrays(self) -> dict[str, Any]:
        return {
            **{f"edits {name}": values.astype(np.int32) for name, values in self.edits.items()},
            **{f"capped {name}": values.astype(np.int32) for name, values in self.capped.items()},
            **{f"divergence {name}": values.astype(np.float32) for name, values in self.divergence.items()},
            **{f"singular values {name}": values for name, values in self.singular_values.items()},
        }

    @classmethod
    def load(cls, name_or_path: str | os.PathLike[str] = "las_small") -> Self:
        """Return a shipped table, one of `SHIPPED_TABLES`, or read what `save` wrote.

        Raises:
            ValueError: The file is not a table.
            FileNotFoundError: There is no such table or file.
        """
        if name_or_path in SHIPPED_TABLES:
            return cls._shipped(str(name_or_path))
        path = Path(name_or_path)
        if not path.exists():
            raise FileNotFoundError(
                f"no table is named {str(name_or_path)!r}, and there is no such file; the shipped ones are "
                f"{', '.join(SHIPPED_TABLES)}"
            )
        return cls._read(path)

    @classmethod
    @cache
    def _shipped(cls, name: str) -> Self:
        file = resources.files("shrinkml_env") / SHIPPED_TABLES[name]
        if not file.is_file():
            raise FileNotFoundError(
                f"this version does not ship the table {name!r}: give `table=`, a Table that holds a measurement of "
                "every configuration"
            )
        return cls._read(file)

    @classmethod
    def _read(cls, file: Any) -> Self:
        try:
            with open_arrays(file.read_bytes()) as archive:
                summary = parse_json(str(archive["summary"]))
                if summary["format"] != _FORMAT:
                    raise ValueError(f"its format is {summary['format']!r}, not {_FORMAT!r}")
                arrays = {name: archive[name] for name in archive.files if name != "summary"}
            layers = tuple(
                Layer(layer["name"], layer["kind"], tuple(_matrix(matrix) for matrix in layer["matrices"]))
                for layer in summary["layers"]
            )
            table = cls(
                model=summary["model"],
                blocks=summary["blocks"],
                layers=layers,
                candidates=tuple(tuple(ranks) for ranks in summary["candidates"]),
                singular_values=_named(arrays, "singular values "),
                original_params=summary["original_params"],
                positions=summary["positions"],
                other_macs=summary["other_macs"],
                utterances=summary["utterances"],
                words=summary["words"],
                edits={name: values.astype(np.int64) for name, values in _named(arrays, "edits ").items()},
                capped={name: values.astype(np.int64) for name, values in _named(arrays, "capped ").items()},
                divergence=_named(arrays, "divergence "),
                factorisation=summary.get("factorisation", "svd"),
                levels=None if "levels" not in summary else tuple(map(tuple, summary["levels"])),
                lookups=summary.get("lookups", {}),
            )
            table._require_complete()
            return table
        except (
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            OSError,
            EOFError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{file} is not a table, as Table.save writes it: {error}") from error

    def _require_complete(self) -> None:
        """Check that every set has one number of edits and one of capped utterances for every configuration.

        Raises:
            ValueError: The numbers of a set are missing, or are too few or too many.
        """
        for subset in self.words:
            for name, values in (("edits", self.edits.get(subset)), ("capped", self.capped.get(subset))):
                if values is None or values.shape != (self.size,):
                    raise ValueError(f"{name} of {subset} are not {self.size} numbers, one of each configuration")
            if self.divergence and self.divergence.get(subset, np.empty(0)).shape != (self.size,):
                raise ValueError(f"divergences of {subset} are not {self.size} numbers, one of each configuration")


def _written(matrix: Matrix) -> Any:
    """Return a matrix as JSON has it; two factors of a single matrix as before there was anything else."""
    plain = [matrix.name, matrix.rows, matrix.columns, matrix.kind]
    if matrix.form == "factors" and not matrix.parts:
        return plain
    return [*plain, matrix.form, [_written(part) for part in matrix.parts]]


def _matrix(value: Sequence[Any]) -> Matrix:
    """Return the matrix of which `_written` made JSON."""
    name, rows, columns, kind, *rest = value
    matrix = Matrix(name, rows, columns, kind)
    if not rest:
        return matrix
    form, parts = rest
    return replace(matrix, form=form, parts=tuple(_matrix(part) for part in parts))


def _named(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}


class TableEvaluator:
    """An evaluator of the table's blocks that looks configurations up instead of measuring them.

    An `Evaluation` from a table holds sums over the set: `edits` and `words` have one element each.

    Args:
        table: The table.
        subset: One of `SETS`.

    Raises:
        ValueError: The table does not hold this set.
    """

    def __init__(self, table: Table, subset: str = "proxy") -> None:
        if subset not in table.edits:
            raise ValueError(f"the table holds no set {subset!r}; it has {', '.join(table.edits)}")
        self.table = table
        self.subset = subset
        self.layers = table.layers
        spec = table.factorisation
        self.factorisation_name = name_with_form(spec if isinstance(spec, str) else spec["name"], table.layers)
        self._divergence = table.divergence.get(subset)
        self.singular_values: Mapping[str, Tensor] = {
            name: torch.from_numpy(values) for name, values in table.singular_values.items()
        }

    @property
    def key(self) -> str:
        """The hash of the table and the name of the set."""
        return f"{self.table.content} {self.subset}"

    @cached_property
    def num_utterances(self) -> int:
        """The number of utterances of the set."""
        return count_utterances(self.table.utterances[self.subset])

    @cached_property
    def baseline(self) -> Evaluation:
        """The evaluation of the original."""
        return self.evaluate({})

    @cached_property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every configuration, in the table's order: what `evaluate` returns for each, many times faster.

        Raises:
            ValueError: As `evaluate`.
        """
        edits, capped = self.table.edits[self.subset], self.table.capped[self.subset]
        for number in np.flatnonzero(edits < 0)[:1]:
            self.evaluate(self.table.search_space.ranks(np.unravel_index(number, self.table.search_space.counts)))
        params = self._everywhere(lambda layer, rank: self.params({layer.name: rank}), self.params({}))
        macs = self._everywhere(lambda layer, rank: self.macs({layer.name: rank}), self.macs({}))
        words = (self.table.words[self.subset],)
        divergences = [None] * self.table.size if self._divergence is None else self._divergence.tolist()
        measured = zip(edits.tolist(), params, macs, capped.tolist(), divergences, strict=True)
        return tuple(
            Evaluation(ranks, (errors,), words, size, size / self.table.original_params, cost, reached, divergence)
            for ranks, (errors, size, cost, reached, divergence) in zip(
                self.table.configurations(), measured, strict=True
            )
        )

    def _everywhere(self, alone: Callable[[Layer, int], int], dense: int) -> list[int]:
        """Return a sum over the layers for every configuration, in the table's order.

        Args:
            alone: The sum with one layer at a rank and all others dense.
            dense: The sum with all of them dense.
        """
        total = np.array(dense)
        for of_layer in self.table.search_space.tabulate(lambda layer, rank: alone(layer, rank) - dense):
            total = np.add.outer(total, np.array(list(of_layer.values())))
        found: list[int] = total.ravel().tolist()
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "evaluations"}

    def evaluate(self, ranks: Mapping[str, int]) -> Evaluation:
        """Look a configuration up; blocks that `ranks` does not name are dense.

        Raises:
            ValueError: A block is unknown, a rank is not one of its candidates, or the configuration was not measured
                on this set.
        """
        complete = canonical_ranks(self.layers, ranks)
        number = self.table.index(complete)
        if self.table.edits[self.subset][number] < 0:
            raise ValueError(
                f"the table does not hold {complete} on {self.subset!r}: it holds only a selection; choose another set"
            )
        params = self.params(complete)
        return Evaluation(
            ranks=complete,
            edits=(int(self.table.edits[self.subset][number]),),
            words=(self.table.words[self.subset],),
            params=params,
            size_ratio=params / self.table.original_params,
            macs=self.macs(complete),
            capped=int(self.table.capped[self.subset][number]),
            divergence=None if self._divergence is None else float(self._divergence[number]),
        )

    def on(self, utterances: Sequence[Utterance]) -> Evaluator:
        """Return an evaluator of the same model and blocks that measures on other utterances, without the table.

        Its measurements persist in the default cache, as those of the environment of `Table.live_kwargs` do.
        """
        cache = EvaluationCache()
        model = load_model(self.table.model)
        factorisation = make_factorisation(model, self.table.factorisation, cache)
        divergence = self._divergence is not None
        return Evaluator(model, utterances, self.table.granularity, cache, factorisation, divergence=divergence)

    def evaluate_many(self, configurations: Sequence[Mapping[str, int]]) -> list[Evaluation]:
        """Look several configurations up, in their order."""
        return [self.evaluate(ranks) for ranks in configurations]

    def params(self, ranks: Mapping[str, int]) -> int:
        """Return the number of parameters of a configuration."""
        return parameters_at(self.table.original_params, self.layers, ranks)

    def size_ratio(self, ranks: Mapping[str, int]) -> float:
        """Return `params` over the original's number of parameters, in (0, 1]."""
        return self.params(ranks) / self.table.original_params

    def macs(self, ranks: Mapping[str, int]) -> int:
        """Return the multiply-adds of a configuration over the whole set."""
        complete = canonical_ranks(self.layers, ranks)
        table, subset = self.table, self.subset
        workload = Workload(table.positions[subset], table.other_macs[subset], table.lookups.get(subset, {}))
        return count_macs(self.layers, complete, workload)

    def activation_error(self, ranks: Mapping[str, int]) -> float:
        """Raise an error: a table holds no activations.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("a table holds no activations: use the live environment (see `live_kwargs`)")

    def close(self) -> None:
        """Do nothing: nothing was started."""
