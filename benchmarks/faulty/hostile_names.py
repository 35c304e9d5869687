"""Names that ask a terminal, a browser, a spreadsheet, TeX or a file system to do something."""

from __future__ import annotations

import random

NAMES = {
    "ESC colour": "\x1b[31mred\x1b[0m",
    "ESC title": "\x1b]0;pwned\x07",
    "ESC clear": "\x1b[2J\x1b[H",
    "C1 CSI": "\x9b31mred",
    "NUL": "a\0b",
    "CR": "honest\rforged",
    "newline": "honest\n   1 forged  9.99",
    "backspace": "abc\b\b\bxyz",
    "BEL": "\a\a",
    "bidi override": "abc\u202egpj.exe",
    "bidi isolate": "\u2066abc\u2069\u2067",
    "bidi marks": "a\u200eb\u200fc\u061c",
    "line separator": "a\u2028b\u2029c",
    "zero width": "a\u200bb\ufeffc",
    "lone surrogate": "a\ud800b",
    "combining": "Z" + "\u0351\u036b\u0343" * 40,
    "wide": "\U0001f642" * 60,
    "long": "x" * 5000,
    "empty": "",
    "blank": "   ",
    "script": "<script>pwned()</script>",
    "image": "<img src=x onerror=pwned()>",
    "end of script": "</script><script>pwned()</script>",
    "attribute": '" onmouseover="pwned()" x="',
    "comment": "<!--<script>pwned()</script>-->",
    "svg": "<svg/onload=pwned()>",
    "link": "[a](javascript:pwned())",
    "template": "{{ pwned }}{% include 'pwned' %}",
    "JSON": '"}];pwned();//',
    "TeX input": "\\input{/etc/passwd}",
    "TeX write18": "\\immediate\\write18{touch ran}",
    "TeX specials": "50% $x_1^2$ & #1 ~ {a} \\",
    "formula": '=HYPERLINK("http://x","pwned")',
    "formula plus": "+1+cmd|' /C calc'!A0",
    "formula minus": "-2+3+cmd|' /C calc'!A0",
    "formula at": "@SUM(1+1)*cmd|' /C calc'!A0",
    "formula tab": "\t=1+1",
    "formula blank": " =1+1",
    "formula quoted": '"=1+1","=2+2"',
    "rich markup": "[bold red]x[/bold red][/nosuch]",
    "rich link": "[link=file:///etc/passwd]x[/link]",
    "table": "a | b | c",
    "code": "`a` ``` b",
    "path": "../../../pwned",
    "absolute path": "/tmp/pwned",
    "percent": "%s %d %n {0} {x!r}",
    "shell": "$(touch ran); `touch ran`",
    "option": "--help",
    "like an adapter": "baseline:pca",
    "wildcards": "*?[a-z]",
}


def drawn(number: int, draw: random.Random) -> tuple[str, str]:
    """What it is called in reports, and a name: each once, then two of them together."""
    kinds = list(NAMES)
    if number < len(kinds):
        return kinds[number], NAMES[kinds[number]]
    first, second = draw.sample(kinds, 2)
    return f"{first} and {second}", NAMES[first] + NAMES[second]
