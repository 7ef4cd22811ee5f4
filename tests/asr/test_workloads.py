from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from shrinkml_env.asr.workloads import lengths_after, shortest_before

CONVOLUTIONS = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 5)).flatmap(
        lambda sizes: st.integers(0, sizes[0] // 2).map(lambda padding: nn.Conv1d(1, 1, *sizes, padding=padding))
    ),
    min_size=1,
    max_size=4,
)


@given(CONVOLUTIONS)
def test_the_shortest_length_is_the_first_with_a_frame(convolutions):
    shortest = shortest_before(convolutions)
    assert lengths_after(convolutions, shortest)[-1] >= 1
    assert shortest == 1 or lengths_after(convolutions, shortest - 1)[-1] == 0


@given(CONVOLUTIONS, st.integers(0, 20))
def test_lengths_are_never_negative(convolutions, length):
    assert min(lengths_after(convolutions, length)) >= 0


def test_released_models():
    wav2vec2 = [nn.Conv1d(1, 1, *sizes) for sizes in [(10, 5), *[(3, 2)] * 4, *[(2, 2)] * 2]]
    assert shortest_before(wav2vec2) == 400
    assert lengths_after(wav2vec2, 16_000)[-1] == 49
