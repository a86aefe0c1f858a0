"""Texts that an attacker, a model or an accident may put anywhere, and how they are shown."""

from __future__ import annotations

# As it comes in → as it stands in a display, white space aside.
_CHANGED = {
    # Terminals: colours, cursor, links, titles, C1 forms of the same.
    "red\x1b[31m text\x1b[0m": "red\\x1b[31m text\\x1b[0m",
    "\x1b[2J\x1b[Hcleared": "\\x1b[2J\\x1b[Hcleared",
    "\x1b]8;;http://127.0.0.1:9\x07click\x1b]8;;\x07": (
        "\\x1b]8;;http://127.0.0.1:9\\x07click\\x1b]8;;\\x07"
    ),
    "\x1b]0;title\x1b\\": "\\x1b]0;title\\x1b\\",
    "c1 \x9b31m csi": "c1 \\u009b31m csi",
    "c1 osc \x9d52;c;eA==\x9c": "c1 osc \\u009d52;c;eA==\\u009c",
    "bell\x07back\x08del\x7f": "bell\\x07back\\x08del\\u007f",
    "shift\x0eout\x0fin": "shift\\x0eout\\x0fin",
    # Direction of text.
    "user\u202etxt.exe\u202c": "user\\u202etxt.exe\\u202c",
    "iso\u2066late\u2069 lrm\u200e rlm\u200f": "iso\\u2066late\\u2069 lrm\\u200e rlm\\u200f",
    "alm\u061c embed\u202a\u202b": "alm\\u061c embed\\u202a\\u202b",
    # What cannot be encoded.
    "nul\x00byte": "nul\\x00byte",
    "lone\ud800surrogate": "lone\\ud800surrogate",
    "turned\udc00\ud800pair": "turned\\udc00\\ud800pair",
}
_SAME = (
    # HTML.
    "<script>alert(1)</script>",
    "</script><script>alert(1)//",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<svg><foreignObject><iframe/onload=alert(1)></foreignObject></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    "<iframe srcdoc='<script>parent.x=1</script>'></iframe>",
    "<iframe src=javascript:alert(1)>",
    "<object data=data:text/html,x><embed src=x>",
    "<a href=http://127.0.0.1:9/x>link",
    "<a href='javascript:alert(1)' style=position:fixed;inset:0>x</a>",
    "<base href=http://127.0.0.1:9/><meta http-equiv=refresh content=0>",
    "<b id=x class=jp-Cell>bold</b>",
    "</td></tr></table><h1>out</h1>",
    "</summary></details><form action=x><input>",
    "</div></div></div></div><button>",
    "--><textarea><!--",
    "<!--",
    "<![CDATA[x]]></title></textarea></xmp><plaintext>",
    # Attributes.
    '"><img src=x onload="alert(1)">',
    "' onmouseover='alert(1)",
    '" style="position:fixed;inset:0',
    "` onclick=`alert(1)",
    # CSS.
    "<style>*{display:none}</style>",
    "}</style>*{background:url(http://127.0.0.1:9/)}",
    "expression(alert(1));@import 'http://127.0.0.1:9/x.css'",
    # Entities.
    "&lt;i&gt; &amp; &#60;u&#62; &nbsp;",
    "&notit; &#x202e; &copy &",
    # Markdown.
    "[link](javascript:alert(1)) ![i](http://127.0.0.1:9/i.png)",
    "[ref][x] [x]: http://127.0.0.1:9 [^note]",
    "`code` ``two`` **bold** __strong__ *em* _em_ ~~gone~~",
    "``` fence ~~~ fence",
    "# heading",
    "- item",
    "+ item * item",
    "1. first 2) second",
    "> quote",
    "===",
    "---",
    "a | b | c || \\| d",
    "<http://127.0.0.1:9> www.example.org https://example.org/a_b_c",
    "- [x] done ==mark== ^up^ ~down~ {#id .cls} :smile: @someone #12",
    "ends in a backslash \\",
    "\\* \\` \\\\ \\[",
    # Formulas.
    "$1 and $2",
    "$$x^2$$ \\(y\\) \\[z\\] \\begin{align}a&b\\end{align}",
    "\\input{/etc/passwd} \\write18{x} %comment ^^M",
    # Graphs.
    '"]; rankdir=TB; x [URL="javascript:alert(1)"',
    "\\N\\G\\L \\l \\r <TABLE><TR><TD>x</TD></TR></TABLE>",
    "a -> b; }",
    # Templates and format strings.
    "{{ 7*7 }} {% raw %} {# note #}",
    "{0} {x!r} %s %(x)s ${x} {{}}",
    # URLs.
    "javascript:alert(1)",
    "data:text/html;base64,PHNjcmlwdD4=",
    # Signs of our own.
    "● ○ ◌ ✕ – ✓ + ! … +316 ▸ →",
    "{+added+} [-removed-]",
    "[bold red]markup of rich[/] [link=http://127.0.0.1:9]x[/link]",
    # Other scripts, joined and zero-width signs.
    "日本語 のテキスト",
    "naïve e\u0301 ελληνικά",
    "\u0937\u094d\u0928\u093f \u0e01\u0e33",
    "family \U0001f468\u200d\U0001f469\u200d\U0001f467 flag \U0001f1ef\U0001f1f5",
    "zero\u200bwidth\ufeffjoined",
    "z\u0351\u0301\u0302\u0303\u0304\u0305\u0306\u0307\u0308algo",
    "שלום עולם مرحبا",
    "non\u00adbreaking\u2011hyphen",
)
PAYLOADS: dict[str, str] = {**_CHANGED, **{text: text for text in _SAME}}

# Long ones: they are cut, but nothing of them is obeyed.
LONG: tuple[str, ...] = (
    "x" * 100_000,
    "<b>" * 30_000,
    "word " * 30_000,
    "a\u0301" * 20_000,
    "日" * 20_000,
    "&amp;" * 20_000,
    "$" * 20_000,
    "`" * 5_000,
    "\n" * 20_000 + "end",
    "line\r\n" * 5_000,
    "\x1b[31m" * 5_000,
)


def without_space(text: str) -> str:
    """The characters of a text in their order: where lines end is no matter."""
    return "".join(text.split())
