"""The logo, as a file and as Markdown that carries it along."""

import base64
from functools import cache
from pathlib import Path

__all__ = ["LOGO", "logo_markdown"]

LOGO = str(Path(__file__).with_name("logo.svg"))


@cache
def logo_markdown(size: int) -> str:
    """A picture of `size` pixels for `st.markdown`; unlike `st.image` it offers no view in full size."""
    drawing = Path(LOGO).read_text(encoding="utf-8").replace("<svg ", f'<svg width="{size}" height="{size}" ', 1)
    return f"![](data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()})"
