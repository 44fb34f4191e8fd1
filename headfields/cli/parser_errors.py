"""Errors of the command line's parser (tyro) in one line, as all others: it draws boxes around them."""

import re

__all__ = ["in_one_line"]

_KINDS = {"INT": "a whole number", "FLOAT": "a number"}


def in_one_line(box: str, command: str) -> str:
    """What is wrong, out of the parser's box.

    Args:
        box: what the parser has printed on stderr.
        command: the command, for where its options are listed.

    >>> in_one_line("╭─ Unrecognized options ─╮\\n│ Unrecognized options: b │\\n╰────╯", "synth")
    'unrecognized options: b; headfields synth --help lists what there is'
    """
    rows = [row.strip("╭╮╰╯│|+ ") for row in box.splitlines() if row.strip()]
    title = rows[0].strip("─- ") if rows else ""
    sections: list[list[str]] = [[]]
    for row in rows[1:]:
        if row and not row.strip("─-"):
            sections.append([])
        elif row:
            sections[-1].append(row)
    sections = [section for section in sections if section]  # boxes of ASCII have a rule below the title
    said = " ".join(sections[0]) if sections else title
    return f"{_reworded(said, sections).rstrip('.')}; headfields {command} --help lists what there is".replace(
        "  ", " "
    )


def _reworded(said: str, sections: list[list[str]]) -> str:
    value = re.match(r"Error parsing (\S+): (.*)", said)
    if value:
        option, reason = value.groups()
        quoted = re.search(r"\['(.*?)'\]|: '(.*?)'$", reason)
        words = next((row.split() for rows in sections[1:] for row in rows if row.startswith(f"{option} ")), [])
        kind = next((name for key, name in _KINDS.items() if key in reason or f"{key.lower()}()" in reason), "")
        kind = kind or " ".join(_KINDS.get(word, word) for word in words[1:2])
        if not quoted:
            return f"{option}: {reason}"
        return f"{option} is {next(filter(None, quoted.groups()), '')!r}; expected {kind}"
    choice = re.match(r"invalid choice (.*?) for argument '(.*?)'\. Expected one of \((.*?)\)", said)
    if choice:
        given, option, choices = choice.groups()
        names = [name.strip(" '") for name in choices.split(",") if name.strip(" '") not in ("None", "")]
        return f"{option} is {given}; expected {', '.join(sorted(names))}"
    missing = re.match(r"Missing value for argument '\(?'?([\w-]+)'", said)
    if missing:
        return f"{missing.group(1)} needs a value"
    required = re.match(r"Missing from headfields \S+: (.*)", said)
    if required:
        listed = re.sub(r"\bMODEL\b.*", "MODEL", required.group(1))  # whose help lists all presets
        return f"missing: {listed.replace('. (required)', '').replace(' (required)', '')}"
    return said[:1].lower() + said[1:].rstrip(".")
