"""Write formulas as MathML, which browsers draw themselves: the pages need neither scripts nor the internet."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

PRIME = "<mi>&#x02032;</mi>"
FULL_PRIME = '<mo lspace="0" rspace="0">&#x02032;</mo>'
SPACE = '<mspace width="0.167em" />'


def formula(tex: str, display: str = "inline") -> str:
    """
    Return a formula as MathML.

    Browsers raise the sign of a prime although it is raised already, and leave no space around "log": this puts primes beside
    their letter, and adds the spaces.

    :param tex: the formula
    :param display: ``"inline"`` or ``"block"``
    """
    text = convert(tex, display=display)
    text = re.sub(f"<msup>(<mi>[^<]*</mi>){PRIME}</msup>", rf"<mrow>\1{FULL_PRIME}</mrow>", text)
    text = re.sub(
        f"<msubsup>(<mi>[^<]*</mi>)(<m[in]>[^<]*</m[in]>){PRIME}</msubsup>",
        rf"<msub><mrow>\1{FULL_PRIME}</mrow>\2</msub>",
        text,
    )
    text = text.replace("</mi><mi>log</mi>", f"</mi>{SPACE}<mi>log</mi>")
    return text.replace("<mi>log</mi>", f"<mi>log</mi>{SPACE}")


def inline(translator: Any, node: nodes.math) -> None:
    """Write a formula of a line of text."""
    translator.body.append(formula(node.astext()))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """Write a formula of its own, which may be wider than the page."""
    translator.body.append(f'<div class="formula">{formula(node.astext(), display="block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Any) -> dict[str, bool]:
    """Register the two writers."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
