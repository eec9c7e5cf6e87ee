"""The README's table of figures, from the results of the benchmarks.

    python -m benchmarks.tables [--check]

Everything between ``<!-- figures -->`` and ``<!-- /figures -->`` is written anew; with ``--check`` it is only compared.
"""

from __future__ import annotations

import argparse
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import results
from benchmarks.comparing.table import all_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- figures -->", "<!-- /figures -->"

_Row = tuple[str, str, str]
_DELTA_COME = "Delta-CoMe", "as it is"


def main() -> None:
    """Write the table, or fail if it is not up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the README is not up to date")
    check = parser.parse_args().check
    before = README.read_text(encoding="utf-8")
    after = with_table(before, table())
    if check and after != before:
        raise SystemExit("README.md does not show the figures in benchmarks/results: run python -m benchmarks.tables")
    if not check:
        README.write_text(after, encoding="utf-8")


def with_table(text: str, table: str) -> str:
    r"""The text with the table between its marks.

    >>> with_table("a\n<!-- figures -->\nold\n<!-- /figures -->\nb", "new")
    'a\n<!-- figures -->\nnew\n<!-- /figures -->\nb'

    Raises:
        SystemExit: the marks are not there.
    """
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    if not (start and end):
        raise SystemExit(f"README.md has no {START} … {END}")
    return f"{head}{START}\n{table}\n{END}{tail}"


def table() -> str:
    """The table of all figures, Markdown."""
    parts = (
        _exact,
        _fidelity,
        _comparison,
        _goals,
        _calibration,
        _classifier,
        _speed,
        _memory,
        _store,
        _grafting,
        _live,
        _serving,
        _routing,
        _continual,
        _logits,
    )
    rows = [row for part in parts for row in part()]
    lines = ["| what | figure | command |", "|---|---|---|"]
    lines += [f"| {what} | {figure} | `{command}` |" for what, figure, command in rows]
    return "\n".join(lines)


def _figures(name: str) -> tuple[dict[str, Any], str]:
    document = results.load(name)
    return document["figures"], document["command"]


def _exact() -> Iterator[_Row]:
    found, command = _figures("exact")
    equal = f"{found['tensors_equal_to_tuned']} of {found['tensors']} tensors equal to tuned bit for bit"
    yield "Exact skill of SmolLM2-135M, full fine-tune in bf16", f"{_share(found)}; {equal}", command


def _fidelity() -> Iterator[_Row]:
    found, command = _figures("fidelity")
    for skill in found["skillpack"]:
        yield f"Skill of the same fine-tune, {skill['asked']}", _behaviour(skill), command


def _behaviour(found: dict[str, Any]) -> str:
    low, high = found["kept_interval"]
    return (
        f"{_megabytes(found['bytes'])}: KL {found['kl']:.2g}, gain kept {_percent(found['kept'], 2)} "
        f"[{100 * low:.2f}, {100 * high:.2f}], top-1 agreement {_percent(found['agreement'], 1)}"
    )


def _comparison() -> Iterator[_Row]:
    found, command = _figures("comparison")
    rows = sorted(all_rows(found), key=lambda row: (row.task, -row.share))
    for task, group in groupby(rows, key=lambda row: row.task):
        every = list(group)
        beyond = [row for row in every if row.plain is None]
        strongest, *others = every[len(beyond) :]
        released = [row for row in others if (row.method, row.setting) == _DELTA_COME]
        whats = ["strongest other method", "Delta-CoMe at 40 % of full rank"]
        for what, row in zip(whats, [strongest, *released], strict=False):
            theirs = f"{_megabytes(row.point[0])} ({row.method}, {row.setting}) at KL {row.point[1]:.2g}"
            yield (
                f"Fine-tune {task}: {what}",
                f"{theirs}; a skill takes {row.share * row.point[0] / 1e6:.2f} MB",
                command,
            )
        if beyond:
            sizes = ", ".join(f"{row.method} in {_megabytes(row.point[0], 0)}" for row in beyond)
            closer = f"{len(beyond)} of {len(every)} settings of other methods ({sizes})"
            yield f"Fine-tune {task}: closer than any skill that was measured", closer, command


def _goals() -> Iterator[_Row]:
    found, command = _figures("goals")
    sizes = [size for goals in found.values() for size in goals["sizes"]]
    below = [1 - size["bytes"] / size["asked"] for size in sizes]
    yield (
        f"`pack --size`, {len(sizes)} skills of {len(found)} fine-tunes",
        f"{100 * min(below):.1f} to {100 * max(below):.1f} % below the size that was asked for, never above",
        command,
    )
    every = sorted((within for goals in found.values() for within in goals["divergences"]), key=itemgetter("asked"))
    for asked, group in groupby(every, key=itemgetter("asked")):
        skills = list(group)
        held_out, sizes = [one["kl_on_held_out_texts"] for one in skills], [one["bytes"] for one in skills]
        figure = f"KL {min(held_out):.2g} to {max(held_out):.2g} on other, held-out prompts"
        what = f"`pack --max-kl {asked:g}`, {len(skills)} fine-tunes, 64 texts"
        yield what, f"{figure}; {_megabytes(min(sizes))} to {_megabytes(max(sizes))}", command


def _calibration() -> Iterator[_Row]:
    for path in sorted(results.FOLDER.glob("calibration-*.json")):
        found, command = _figures(path.stem)
        skills = {skill["texts"]: skill for skill in found["skills"]}
        none = skills.pop("none")
        learned = ", ".join(f"{skill['kl']:.2g} with {texts}" for texts, skill in skills.items() if "," not in texts)
        task = found["task"].replace("-", " ")
        what = f"What texts are worth: KL of skills of {_megabytes(none['bytes'])} ({task}, {found['steps']} steps)"
        yield what, f"{none['kl']:.2g} without; {learned}", command


def _classifier() -> Iterator[_Row]:
    found, command = _figures("classifier")
    same = f"{_percent(found['agreement'], 1)} of {found['held_out_reviews']} held-out reviews predicted as by tuned"
    yield "Skill of MiniLM as a classifier of drug reviews (new head)", f"{_share(found)}; {same}", command


def _speed() -> Iterator[_Row]:
    found, command = _figures("speed")
    for name, usage in found["commands"].items():
        seconds = usage["seconds"]
        taken = f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.2g}"
        figure = f"{taken} s, {_megabytes(usage['peak_anonymous_bytes'], 0)} of memory"
        yield f"`skillpack {name}`, SmolLM2-135M" if name != "--help" else "`skillpack --help`", figure, command
    for skill in found.get("decoding", ()):
        what = f"Decoding a skill of {_megabytes(skill['skill_bytes'], 0)} on one core"
        yield what, f"{_megabytes(skill['bytes_per_second'], 0)} of bf16 delta a second", command


def _memory() -> Iterator[_Row]:
    found, command = _figures("memory")
    size, limit = f"{found['checkpoint_bytes'] / 1e9:.2g} GB", _megabytes(found["limit_bytes"], 0)
    for name, usage in found["commands"].items():
        figure = f"{_megabytes(usage['peak_anonymous_bytes'], 0)} of memory (limit {limit})"
        yield f"`skillpack {name}`, {size} checkpoint", f"{figure}, {usage['seconds']:.0f} s", command


def _store() -> Iterator[_Row]:
    found, command = _figures("store")
    scale = found["scale"]
    of = f"library of {scale['commits']:,} commits, {scale['skills']} skills, {scale['blobs']:,} blobs"
    for name in ("list", "log -n 20", "gc", "fsck --quick", "fsck --full"):
        usage = scale["commands"][name]
        figure = f"{usage['seconds']:.2g} s, {_megabytes(usage['peak_anonymous_bytes'], 0)} of memory"
        yield f"`skillpack {name}`, {of}", figure, command
    for name, share in found["throughput"]["shares"].items():
        yield f"{name} of a blob", f"{share:.1f} times the speed of `sha256sum` and then `cp` of the same file", command
    second = found["second_version"]
    sizes = f"{_megabytes(second['second_adds_bytes'])} beside {_megabytes(second['first_bytes'])}"
    yield "Second version of a skill that changes 1 block of 16", sizes, command


def _grafting() -> Iterator[_Row]:
    found, command = _figures("grafting")
    ours, peft = found["steps"], found["peft_steps"]
    equal = (
        f"the base is back bit for bit at {ours['empty_points_equal_to_base']} of {ours['empty_points']} empty points"
    )
    drift = f"PEFT: {_percent(peft['share_of_adapted_weights'], 1)} of adapted weights differ at the end"
    yield f"{ours['steps']:,} random grafts, swaps and removals of four skills on SmolLM2", f"{equal}; {drift}", command
    swap = found["swap"]
    figure = f"{1e3 * swap['swap_seconds']:.3g} ms, {swap['swap_by_copy']:.3g} times a copy of what it touches"
    yield "Swap of a merged skill for another", figure, command
    memory = found["memory"]
    yield f"Memory after {memory['swaps']:,} swaps", f"{_percent(memory['growth'], 2)} more than after 10", command


def _live() -> Iterator[_Row]:
    found, command = _figures("live")
    exact = found["exactness"]
    figure = f"{exact['different_choices']} of {exact['clear_choices']:,} clear choices differ"
    worst = f"logits within {exact['worst_error']:.2g} of their norm"
    yield "Overlay against merged weights, fp32, 200 prompts", f"{figure}; {worst}", command
    for name, timed in found.items():
        if not name.startswith("threads_"):
            continue
        of, switch = f"{name.removeprefix('threads_')} threads", timed["switch_ms"]
        theirs = f"PEFT: {switch['peft set_adapter']:.3g} ms, hotswap {switch['peft hotswap_adapter']:.3g} ms"
        yield f"Switch to another resident skill, {of}", f"{switch['overlay, engine']:.2g} ms ({theirs})", command
        ratios = [ratio for skill, ratio in timed["forward"]["ratio"].items() if skill != "peft lora"]
        theirs = f"PEFT's LoRA of rank {found['peft_rank']}: {timed['forward']['ratio']['peft lora']:.3f}"
        figure = f"{min(ratios):.3f} to {max(ratios):.3f} times the base's ({theirs})"
        yield f"Forward pass with a skill of 2 MB, 8 prompts of 64 tokens, {of}", figure, command
        mixed = timed["mixed"]
        figure = f"{mixed['speedup']:.2f} times as fast as four passes (PEFT: {mixed['peft_speedup']:.2f})"
        yield f"Four prompts with four skills in one batch, {of}", figure, command


def _serving() -> Iterator[_Row]:
    found, command = _figures("serving")
    for turn in found["turns"]:
        mixed, share, clients = turn["mixed"], turn["mixed_over_single"], turn["clients"]
        what = f"`skillpack serve`, SmolLM2, one thread, {clients} clients that mix four skills and the base"
        figure = f"{mixed['tokens_per_second']:.0f} tokens a second, {share:.2f} times what one skill alone gets"
        yield what, f"{figure}; first token after {mixed['first_token_median']:.2f} s", command


def _routing() -> Iterator[_Row]:
    found, command = _figures("routing")
    for name in ("prototype", "linear"):
        method = found["methods"][name]
        right, away = _percent(method["accuracy"], 1), _percent(method["abstains"], 1)
        spent = f"{method['milliseconds']:.2f} ms a prompt beyond one pass"
        figure = f"{right} to the right skill, {away} of unrelated texts to the base, {spent}"
        yield f"Router `{name}`, five skills, {method['prompts']} held-out prompts", figure, command


def _continual() -> Iterator[_Row]:
    """How much of the experts' average score is there after the last of five tasks."""
    found, command = _figures("continual")
    course = found["smollm2"]
    every = course["approaches"].values()
    for key, learned in (("ours", ""), ("ours-calibrated", ", calibrated")):
        ours = course["approaches"][key]
        largest = max(b - a for a, b in pairwise([0, *ours["bytes"]]))
        what = f"Five tasks in sequence on SmolLM2, a skill of at most {_megabytes(largest)} for each{learned}"
        least = min(own / expert for own, expert in zip(ours["scores"][-1], course["experts"], strict=True))
        figure = f"{_percent(ours['of_experts'], 1)} of the experts' average score, no task below {_percent(least, 1)}"
        figure += f", backward transfer {ours['backward_transfer']:g}; {_percent(ours['routed']['of_experts'], 1)}"
        figure += " where a router picks the skill by examples that are worded as the prompts are"
        yield what, figure, command
    for name in ("sequential fine-tuning", "TIES merge", "replay"):
        for each in every:
            if each["name"] == name:
                kept = f"{_percent(each['of_experts'], 1)}, backward transfer {each['backward_transfer']:.2f}"
                yield f"The same by {name}", kept, command


def _logits() -> Iterator[_Row]:
    for task in ("spanish-numbers", "word-problems"):
        found, command = _figures(f"logits-{task}")
        kept = found["recovered"]
        alone, dynamic = (_percent(kept[name]["share"], 0) for name in ("small with the skill", "dynamic"))
        worse = "worse than the base alone, " if kept["dynamic"]["share"] < 0 else ""
        right = f"{found['answers']['dynamic']['right']} of {found['prompts']} answers right"
        figure = f"{worse}{dynamic} of its own fine-tune's gain in nats ({alone} the small model alone), {right}"
        what = f"A half-size sibling's skill ({task.replace('-', ' ')}) on SmolLM2 by dynamic logit fusion"
        yield what, figure, command


def _share(found: dict[str, Any]) -> str:
    sizes = f"{_megabytes(found['skill_bytes'])} of {_megabytes(found['checkpoint_bytes'])}"
    return f"{sizes} ({_percent(found['share'], 1)})"


def _megabytes(count: int, digits: int = 2) -> str:
    return f"{count / 1e6:.{digits}f} MB"


def _percent(share: float, digits: int) -> str:
    return f"{100 * share:.{digits}f} %"


if __name__ == "__main__":
    main()
