"""`mmconvnext compare`: what it prints, writes and refuses."""

import json

import pytest

from mmconvnext.cli import main
from tests.report.conftest import ann_file, better, result  # noqa: F401 (fixtures)

pytest.importorskip("hotcoco")


def test_tables_settings_and_sentences_are_printed_and_written(result, better, tmp_path, capsys):  # noqa: F811
    files = ["--json", tmp_path / "new" / "all.json", "--html", tmp_path / "new" / "all.html"]
    arguments = [result, better, *files, "--pictures", 2, "--samples", 100]
    assert main(["compare", *map(str, arguments)]) == 0
    output = capsys.readouterr().out
    content = json.loads(files[1].read_text())
    for name, text in (("mAP_50", "AP50"), ("mAP_s", "AP small")):
        row = content["AP"]["segm"][name]
        line = next(line for line in output.splitlines() if line.startswith(f"| {text} "))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1:3] == [f"{100 * value:.1f}" for value in row["values"]]
        (more,) = row["differences"]
        assert cells[3] == "{value:+.1f} ({low:+.1f} to {high:+.1f})".format(
            **{key: 100 * each for key, each in more.items()}
        )
    assert "optim_wrapper.optimizer.lr: 0.002 | 0.5" in output
    assert "\n".join(content["sentences"]) in output
    assert output.endswith(f"written to {files[1]}\nwritten to {files[3]}\n")
    assert files[3].read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (["{result}"], "compare takes two runs or more, the baseline first"),
        (["{result}", "no/such.json"], "there is no no/such.json"),
        (["{result}", "{ann_file}"], "is no result of a test that kept its detections"),
        (["{result}", "{folder}"], "is no work folder of a training"),
        (["{result}", "{result}", "--samples", "1"], "a comparison is of two at least"),
        (
            ["{result}", "{result}", "--samples", "2", "--html", "{result}/a.html"],
            "result.json/a.html: ",
        ),
    ],
)
def test_mistakes_are_one_line(sources, says, result, ann_file, capsys, monkeypatch):  # noqa: F811
    monkeypatch.delenv("MMCONVNEXT_TRACEBACK", raising=False)
    places = {"result": result, "ann_file": ann_file, "folder": ann_file.parent}
    assert main(["compare", *(source.format(**places) for source in sources)]) == 1
    (error,) = (line for line in capsys.readouterr().err.splitlines() if "error: " in line)
    assert says in error
