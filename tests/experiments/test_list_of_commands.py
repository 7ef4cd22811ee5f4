from pathlib import Path

from experiments.__main__ import ROOT, commands, main


def test_every_command_is_listed_with_what_it_does(capsys):
    main()
    printed = capsys.readouterr().out
    for folder in (ROOT, ROOT / "studies", ROOT / "build"):
        marked = [path for path in Path(folder).glob("*.py") if "\n@command(" in path.read_text()]
        assert marked
        for path in marked:
            module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
            assert f"python -m {module} " in printed
            assert len(commands(folder)[module]) > 10, module
