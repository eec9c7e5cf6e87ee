"""How skills and reports look in a notebook: small HTML tables that need nothing from elsewhere.

Colours are those of the text around, so that they suit light and dark themes alike. All text is escaped.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skillpack.evaluating import EvalReport
    from skillpack.evaluating.report import ByModel
    from skillpack.manifest import Manifest, TensorEntry
    from skillpack.packing import PackReport
    from skillpack.skill import Skill
    from skillpack.summaries import SkillSummary

_STYLE: Final = """\
.skillpack{font:13px/1.5 system-ui,sans-serif;color:inherit;max-width:60em}
.skillpack h4{margin:0 0 .4em;font-size:1.1em;font-weight:600}
.skillpack table{font:inherit;border-collapse:collapse;color:inherit;background:none;margin:.2em 0 .6em}
.skillpack tr,.skillpack tr:nth-child(even){background:none}
.skillpack th,.skillpack td{padding:.15em .9em .15em 0;text-align:left;vertical-align:top;color:inherit;\
background:none;border:0;border-bottom:1px solid color-mix(in srgb,currentColor 18%,transparent)}
.skillpack th{font-weight:600;opacity:.75}
.skillpack .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.skillpack .g{display:inline-block;width:6em;text-align:left;margin-left:.4em}
.skillpack code{background:none;color:inherit;font-size:.92em;overflow-wrap:anywhere}
.skillpack .b{display:inline-block;height:.6em;background:currentColor;opacity:.45;border-radius:.15em}
.skillpack .w{opacity:.75;margin:.2em 0}
"""
_ROWS: Final = 12
"""Tensors, files or remarks that are shown; of the others only their number."""


class Cell(NamedTuple):
    """A cell of a table.

    Attributes:
        text: to be escaped.
        number: aligned to the right.
        bar: length of a bar, between 0 and 1; none if it is None.
    """

    text: str
    number: bool = False
    bar: float | None = None


def skill_html(skill: Skill) -> str:
    """A skill: what it is, and its largest tensors."""
    facts = [("digest", skill.digest), ("size", _size(skill.size)), *_facts(skill.manifest)]
    return _page(f"Skill {skill.name}", _table((), _pairs(facts)), _largest(skill.manifest))


def pack_html(report: PackReport) -> str:
    """What was packed."""
    where = f"{report.name}@{report.version}" if report.version is not None else f"{report.name}, not stored"
    share = report.size / max(1, report.tuned_size)
    facts = [
        ("size", f"{_size(report.size)}, {share:.2%} of the fine-tune's {_size(report.tuned_size)}"),
        *_facts(report.manifest),
        ("unchanged", f"{report.unchanged:,} tensors"),
        ("digest", report.digest or "dry run: nothing was stored"),
    ]
    if report.measured is not None:
        facts.append(("KL from the fine-tune", f"{report.measured.kl:.3g} nats, at most {report.measured.upper:.3g}"))
    if report.code_files:
        facts.append(("left out", ", ".join(report.code_files)))
    return _page(f"Packed {where}", _table((), _pairs(facts)), _largest(report.manifest))


def list_html(skills: Sequence[SkillSummary]) -> str:
    """The skills of a library."""
    rows = [
        [
            Cell(skill.name),
            Cell("" if skill.version is None else str(skill.version), number=True),
            Cell(_size(skill.size), number=True),
            Cell(skill.time[:10]),
            Cell(skill.message.partition("\n")[0]),
        ]
        for skill in skills
    ]
    counted = f"{len(skills)} skill{'' if len(skills) == 1 else 's'}"
    return _page(counted, _table(("name", "version", "size", "date", "message"), rows) if rows else "")


def eval_html(report: EvalReport) -> str:
    """How far a skill is from its fine-tune."""
    facts = [
        ("KL from the fine-tune", f"{report.kl:.3g} nats {_interval(report.kl_interval)}"),
        ("agreement", f"{report.agreement:.1%} {_interval(report.agreement_interval, '.1%')}"),
    ]
    if report.kept is not None:
        kept = "" if report.kept_interval is None else _interval(report.kept_interval, ".1%")
        facts.append(("gain kept", f"{report.kept:.1%} {kept}"))
    facts.append(("measured on", f"{report.samples:,} samples, {report.tokens:,} predictions"))
    models = [("perplexity", report.perplexity, ".4g"), ("accuracy", report.accuracy, ".1%")]
    compared = [_models(name, figures, form) for name, figures, form in models if figures is not None]
    largest = max((abs(tensor.kl) for tensor in report.tensors), default=0.0) or 1.0
    blamed = [
        [Cell(tensor.name), Cell(f"{tensor.kl:.3g}", number=True, bar=abs(tensor.kl) / largest)]
        for tensor in report.tensors[:_ROWS]
    ]
    return _page(
        f"Evaluation of {report.skill} ({report.task})",
        _table((), _pairs(facts)),
        _table(("", "base", "with the skill", "fine-tune"), compared) if compared else "",
        _table(("tensor", "its part of the KL"), blamed) if blamed else "",
        *(f'<p class="w">{escape(remark)}</p>' for remark in report.remarks[:_ROWS]),
    )


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    rough = [entry.error for entry in manifest.tensors if entry.error]
    exactness = f"{len(rough)} approximated, error at most {max(rough):.2g}" if rough else "bit for bit"
    gone = f", {len(manifest.gone)} gone" if manifest.gone else ""
    facts = [("changed", f"{len(manifest.tensors):,} tensors{gone}; {exactness}")]
    if manifest.files:
        facts.append(("files", ", ".join(file.path for file in manifest.files[:_ROWS])))
    return [*facts, ("base", manifest.base_fingerprint)]


def _largest(manifest: Manifest) -> str:
    """Bytes and errors of the largest tensors."""
    largest = sorted(manifest.tensors, key=lambda entry: (-entry.nbytes, entry.name))[:_ROWS]
    if not largest:
        return ""
    most = max(entry.nbytes for entry in largest) or 1
    rows = [_of_entry(entry, most) for entry in largest]
    left = len(manifest.tensors) - len(rows)
    more = f'<p class="w">and {left:,} more</p>' if left else ""
    return _table(("tensor", "shape", "coded as", "bytes", "error"), rows) + more


def _of_entry(entry: TensorEntry, most: int) -> list[Cell]:
    codecs = "tied" if entry.same_as else ", ".join(dict.fromkeys(part.codec for part in entry.parts))
    return [
        Cell(entry.name),
        Cell(" x ".join(map(str, entry.shape))),
        Cell(codecs),
        Cell(f"{entry.nbytes:,}", number=True, bar=entry.nbytes / most),
        Cell(f"{entry.error:.2g}" if entry.error else "exact", number=True),
    ]


def _models(name: str, figures: ByModel, form: str) -> list[Cell]:
    return [Cell(name), *(Cell("" if value is None else f"{value:{form}}", number=True) for value in figures)]


def _interval(interval: Iterable[float], form: str = ".3g") -> str:
    return f"({' to '.join(f'{end:{form}}' for end in interval)})"


def _size(nbytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= factor:
            return f"{nbytes / factor:.1f} {unit}"
    return f"{nbytes} bytes"


def _pairs(facts: Iterable[tuple[str, str]]) -> list[list[Cell]]:
    return [[Cell(name), Cell(value)] for name, value in facts]


def _table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    rows = list(rows)
    numbers = [cell.number and cell.bar is None for cell in rows[0]] if rows else []
    lines = [list(map(_heading, head, numbers))] if head else []
    lines += [list(map(_cell, row)) for row in rows]
    return f"<table>{''.join(f'<tr>{_joined(line)}</tr>' for line in lines)}</table>"


def _joined(pieces: Iterable[str]) -> str:
    return "".join(pieces)


def _heading(title: str, number: bool) -> str:  # noqa: FBT001 - mapped over the columns
    kind = ' class="n"' if number else ""
    return f"<th{kind}>{escape(title)}</th>"


def _cell(cell: Cell) -> str:
    length = None if cell.bar is None else f"{6 * min(1.0, cell.bar):.2f}em"
    bar = "" if length is None else f'<span class="g"><span class="b" style="width:{length}"></span></span>'
    kind = ' class="n"' if cell.number else ""
    return f"<td{kind}>{escape(cell.text)}{bar}</td>"


def _page(title: str, *parts: str) -> str:
    content = f"<style>{_STYLE}</style><h4>{escape(title)}</h4>{''.join(parts)}"
    return f'<div class="skillpack">{content}</div>'
