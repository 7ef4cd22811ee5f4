"""A measurer with a persistent cache."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from shrinkml_env.compression.canonical import digest
from shrinkml_env.evaluation.cache import EvaluationCache
from shrinkml_env.evaluation.measurer import Measurer, Ranks
from shrinkml_env.evaluation.result import Counts

__all__ = ["CachedMeasurer"]


class CachedMeasurer:
    """A cached measurer looks counts up in a cache, and measures and stores those that the cache lacks.

    Args:
        measurer: Measures what the cache does not hold.
        cache: The cache; None measures anew in every call, but no configuration twice in one call.
    """

    def __init__(self, measurer: Measurer, cache: EvaluationCache | None) -> None:
        self._measurer = measurer
        self._cache = cache

    def key(self, ranks: Ranks) -> str:
        """Return the key under which the counts of a configuration are stored."""
        return digest([self._measurer.content, json.dumps(dict(ranks), sort_keys=True).encode()])

    def measure(self, configurations: Sequence[Ranks]) -> Iterator[Counts]:
        """Yield the counts of several configurations, in their order, each as soon as it is known.

        The generator looks nothing up and measures nothing before it is advanced.
        """
        keys = [self.key(ranks) for ranks in configurations]
        wanted = dict(zip(keys, configurations, strict=True))
        known = self._look_up(wanted)
        measured = self._measure_missing({key: ranks for key, ranks in wanted.items() if key not in known})
        for key in keys:
            if key not in known:
                known[key] = next(measured)
            yield known[key]

    def _measure_missing(self, missing: Mapping[str, Ranks]) -> Iterator[Counts]:
        if self._cache is None:
            yield from self._measurer.measure(list(missing.values()))
            return
        keys, size = list(missing), self._measurer.chunk_size
        for start in range(0, len(keys), size):
            # No lock is held across a `yield`: the caller may take its time, or request another configuration.
            chunk = {key: missing[key] for key in keys[start : start + size]}
            yield from self._measure_and_store(self._cache, chunk)

    def _measure_and_store(self, cache: EvaluationCache, missing: Mapping[str, Ranks]) -> list[Counts]:
        with cache.exclusive(missing):
            known = self._look_up(missing)  # another process may have stored some meanwhile
            still = [key for key in missing if key not in known]
            for key, counts in zip(still, self._measurer.measure([missing[key] for key in still]), strict=True):
                known[key] = counts
                cache.put(key, counts.to_json(), self._measurer.subject)
        return [known[key] for key in missing]

    def _look_up(self, keys: Iterable[str]) -> dict[str, Counts]:
        if self._cache is None:
            return {}
        found = {}
        for key in keys:
            record = self._cache.get(key)
            if record is not None:
                try:
                    found[key] = Counts.from_json(record)
                except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
                    raise ValueError(
                        f"{self._cache.path}: the measurement {key} is damaged ({error!r}): delete the file or set "
                        "SHRINKML_CACHE"
                    ) from error
        return found
