"""The notebook in ``docs/`` runs from top to bottom."""

import ast
import json

import pytest
from PIL import Image

from mmconvnext.inference.prediction import Prediction


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(repo, tmp_path, monkeypatch, capsys):
    pytest.importorskip("supervision")
    text = (repo / "docs" / "detector.ipynb").read_text("utf-8")
    assert len(text) < 30_000, "stored outputs are small"
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    monkeypatch.chdir(tmp_path)
    space, shown = {}, []
    for cell in cells:
        *before, last = ast.parse("".join(cell["source"])).body
        exec(compile(ast.Module(before, []), "cell", "exec"), space)
        if isinstance(last, ast.Expr):  # which a notebook shows
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), space))
            getattr(shown[-1], "_repr_png_", shown[-1].__repr__)()
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), space)
        if "parameters" in cell["metadata"].get("tags", ()):
            space |= {"iterations": 2, "pictures": 8}
    assert sum(isinstance(each, Prediction) for each in shown) == 2
    assert sum(isinstance(each, Image.Image) for each in shown) == 2
    assert 0 in shown, "the training"
    assert space["faults"] == ["absent.png does not exist"]
    assert "in the 16 pictures" in capsys.readouterr().out
