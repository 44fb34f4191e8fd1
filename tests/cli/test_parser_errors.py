"""What the parser says in a box is one line, as the library's own errors."""

import pytest

from headfields.cli import main

LINES = {
    "synth --frames abc": "--frames is 'abc'; expected a whole number; headfields synth --help lists what there is",
    "train insta --steps abc --out x": "--steps is 'abc'; expected a whole number; headfields train --help",
    "synth out --noise high": "--noise is 'high'; expected a number;",
    "train insta --recipe slow --out x": "--recipe is 'slow'; expected cpu, fast, released;",
    "synth a b": "unrecognized options: b; headfields synth --help",
    "evaluate run --limit": "--limit needs a value;",
    "train insta": "missing: --out RUN Folder of the run;",
}


@pytest.mark.parametrize("words", LINES)
def test_a_mistake_is_one_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert error.startswith(f"headfields: error: {LINES[words]}") and error.count("\n") == 1
