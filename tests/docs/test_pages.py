"""The Python in the documentation runs as it stands."""

import re

import gymnasium as gym
import numpy as np
import pytest

from tests.helpers.pages import NOTEBOOKS, ROOT, blocks, cells
from tests.helpers.processes import python
from tests.helpers.speech import SHIPPED_SPEECH

pytestmark = [pytest.mark.docs, pytest.mark.usefixtures("few_utterances")]

PAGES = (
    "docs/actions.md",
    "docs/constraints.md",
    "docs/factorisations.md",
    "docs/fine-tuning.md",
    "docs/observations.md",
    "docs/rewards.md",
    "docs/speed.md",
    "docs/tabular.md",
)


def test_quantisation(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torchao")
    (code,) = blocks("docs/quantisation.md")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert len(capsys.readouterr().out.split()) > 3
    assert (tmp_path / "outputs" / "int8" / "model.safetensors").stat().st_size < 6_000_000


@pytest.mark.parametrize("page", PAGES)
def test_runs(page):
    found = blocks(page)
    assert found
    for number, code in enumerate(found):
        exec(compile(code, f"{page}, block {number}", "exec"), {})


def test_searching_from_python(tmp_path, monkeypatch, capsys):
    """With few evaluations, on few utterances."""
    monkeypatch.chdir(tmp_path)
    few = "[*shrinkml_env.load_utterances('dev')[:2]]"
    names = {}
    for code in blocks("docs/train-an-agent.md"):
        code = code.replace('{"budget": 200}', '{"budget": 3}').replace('{"budget": 20}', '{"budget": 2}')
        code = code.replace('dev="dev", test="test"', f"dev={few}, test={few}")
        exec(code, names)
    assert names["result"].evaluations == 3
    assert (tmp_path / "runs" / "mine" / "best.json").exists()
    assert (tmp_path / "small" / "model.safetensors").stat().st_size == names["result"].file_bytes[1]
    assert names["env"].unwrapped.problem.ledger.spent
    printed = capsys.readouterr().out
    assert printed.split() == [str(names["env"].unwrapped.problem.best.reward)]


@pytest.mark.parametrize(
    ("page", "changes"),
    [
        ("docs/evaluation.md", {"workers=2)": "workers=2, proxy={few})"}),
        (
            "docs/train-an-agent.md",
            {
                'v1", size=0.4, num_envs=8': 'v0", proxy={few}, num_envs=2',
                '"budget": 200': '"budget": 2',
                "n_steps=24": "n_steps=11",
                "batch_size=192": "batch_size=22",
                "(env, agent)": "(env, agent, dev={few}, test={few})",
            },
        ),
    ],
)
def test_the_script_with_workers_runs(page, changes, tmp_path):
    (code,) = (code for code in blocks(page) if "__main__" in code)
    few = {"root": str(SHIPPED_SPEECH), "subset": "proxy-pool", "limit": 4}
    for old, new in changes.items():
        assert code.count(old) == 1
        code = code.replace(old, new.replace("{few}", str(few)))
    (tmp_path / "script.py").write_text(code)
    done = python(tmp_path / "script.py")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", ["docs/actions.md", "docs/constraints.md", "docs/observations.md"])
def test_users_own_parts_play_an_episode(page):
    names = {}
    exec(blocks(page)[-1], names)
    env = names["env"]
    observation, _ = env.reset(seed=0)
    ranks = {layer.name: layer.max_rank for layer in env.unwrapped.layers}
    for action in env.unwrapped.actions_for(ranks):
        assert observation in env.observation_space
        assert action in env.action_space
        observation, _, terminated, _, info = env.step(action)
    assert terminated
    assert info["ranks"] == ranks
    assert info["size_ratio"] == 1


def test_a_users_own_reward_is_used():
    code, search = blocks("docs/your-own-reward.md")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    names = {}
    exec(code.replace('{"budget": 200}', '{"budget": 3}'), names)
    exec(search.replace("(env, agent)", "(env, agent, dev='proxy-small', test='proxy-small')"), names)
    assert names["result"].evaluations == 3
    env = names["env"].unwrapped
    reward, terms = env.problem.reward(env.problem.baseline)
    rates = sorted(e / w for e, w in zip(env.problem.baseline.edits, env.problem.baseline.words, strict=True))
    worst = rates[-len(rates) // 10 :]
    assert reward == pytest.approx(-0.5 - sum(worst) / len(worst))
    assert terms == {"reward": reward}


def test_a_users_own_module_in_twenty_lines(tmp_path, monkeypatch):
    _, recipe, use = blocks("docs/your-own-model.md")
    assert len([line for line in recipe.splitlines() if line.strip()]) <= 20
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(recipe, names)
    exec(use, names)
    env = names["env"]
    assert [layer.name for layer in env.unwrapped.layers] == ["0", "2"]
    env.reset(seed=0)
    env.step(np.float32([0.0]))
    _, _, terminated, _, info = env.step(np.float32([0.0]))
    assert terminated
    assert info["size_ratio"] < 1


def test_a_model_of_hugging_faces(tmp_path, corpus, monkeypatch, capsys):
    pytest.importorskip("transformers")
    from tests.helpers.huggingface_models import make_whisper

    code, *_ = blocks("docs/your-own-model.md")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "whisper").mkdir()
    # The same with a small model and a small corpus.
    code = code.replace("openai/whisper-tiny.en", str(make_whisper(tmp_path / "whisper")))
    code = code.replace("/data/LibriSpeech", str(corpus.folder.parent))
    code = code.replace("dev-other", corpus.folder.name).replace("dev-clean", corpus.folder.name)
    exec(code, {})
    whole, encoder = map(int, capsys.readouterr().out.split()[-2:])
    assert 0 < encoder < whole


def test_getting_started(tmp_path, monkeypatch, capsys):
    """With few evaluations; the landing page has the same search."""
    monkeypatch.chdir(tmp_path)
    code = "".join(blocks("docs/get-started.md"))
    assert code.count('{"budget": 200}') == 1
    exec(code.replace('{"budget": 200}', '{"budget": 3}'), {})
    printed = capsys.readouterr().out
    assert "11 of 11 layers decided" in printed
    assert "test WER" in printed
    for folder in ("small", "by-hand"):
        assert (tmp_path / "outputs" / folder / "model.safetensors").exists()


def test_the_readme(tmp_path, monkeypatch, capsys):
    """With few evaluations."""
    monkeypatch.chdir(tmp_path)
    for code in blocks("README.md"):
        exec(code.replace('{"budget": 200}', '{"budget": 3}'), {})
    sizes = [(tmp_path / "outputs" / name / "model.safetensors").stat().st_size for name in ("small", "half")]
    assert sizes[0] < sizes[1] < 6_600_000  # 0.4 and 0.5 of 12.8 MB
    assert "test WER" in capsys.readouterr().out


def test_the_landing_page_shows_the_search_of_the_first_steps():
    (landing,) = blocks("docs/index.md")
    steps = "".join(blocks("docs/get-started.md"))
    for line in filter(None, landing.splitlines()[1:-1]):
        assert line in steps
    assert "run_search(env, agent)" in steps


LINKING = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md")),
    *NOTEBOOKS,
)


def text_of(page):
    """What a page says; of a notebook, its Markdown."""
    if page.suffix == ".ipynb":
        return "\n".join(cell["source"] for cell in cells(page) if cell["cell_type"] == "markdown")
    return page.read_text()


def slugs(page):
    """The names by which GitHub, and MyST, know the headings of a page."""
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def test_a_headings_slug_is_githubs(tmp_path):
    (tmp_path / "page.md").write_text("# What is `x_y`?\n```\n# no heading\n```\n## Two words, a-b\n")
    assert slugs(tmp_path / "page.md") == {"what-is-x_y", "two-words-a-b"}


@pytest.mark.parametrize("page", LINKING)
def test_links_lead_somewhere(page):
    page = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in slugs(file), target


def test_no_page_has_the_name_of_one_that_sphinx_writes():
    """Sphinx replaces it without a warning."""
    assert not {"search", "genindex", "py-modindex"} & {path.stem for path in ROOT.glob("docs/*.md")}


def test_the_page_of_the_environments_lists_every_id():
    listed = set(re.findall(r"`(ShrinkML\w*-v\d+)`", (ROOT / "docs" / "environments.md").read_text()))
    assert {name for name in gym.registry if name.startswith("ShrinkML")} == listed
