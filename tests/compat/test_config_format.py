"""MMEngine has a config's text formatted once."""

from types import SimpleNamespace

from mmconvnext.compat.config_format import install


def test_a_text_is_formatted_once_in_a_style():
    asked = []
    config = SimpleNamespace()
    config.FormatCode = lambda text, **kwargs: asked.append((text, kwargs)) or (f"{text}!", True)
    install(config)
    for text, columns in [("a", 1), ("a", 1), ("b", 1), ("a", 1), ("a", 2)]:
        assert config.FormatCode(text, style_config={"columns": columns}) == (f"{text}!", True)
    assert asked == [
        (text, {"style_config": {"columns": columns}})
        for text, columns in [("a", 1), ("b", 1), ("a", 2)]
    ]
