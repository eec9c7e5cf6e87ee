from __future__ import annotations

import json

import pytest

import skillpack
from skillpack.kinds import kind_names
from skillpack.texts import Sample


@pytest.fixture
def arguments(llama, tmp_path):
    (tmp_path / "data.txt").write_text("Some are useful.\n\nAll models are wrong.\n\nabc\n")
    return ("--base", llama.base, "--tuned", llama.tuned, "--data", tmp_path / "data.txt", "--store", llama.store)


def test_figures_and_what_hurts_most(run, arguments, llama):
    result = run("eval", "tiny", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    head, table = result.stdout.split("\n\n")
    texts = [Sample(text=text) for text in ("Some are useful.", "All models are wrong.", "abc")]
    report = skillpack.evaluate("tiny", llama.base, llama.tuned, texts, store=llama.store)
    low, high = report.kl_interval
    assert head.splitlines()[:3] == [
        "tiny: 3 samples, 37 predicted tokens",
        f"KL: {report.kl:.3g} nats [{low:.3g}, {high:.3g}]",
        f"agreement: {report.agreement:.2%} [{report.agreement_interval[0]:.2%}, {report.agreement_interval[1]:.2%}]",
    ]
    assert f"perplexity: base {report.perplexity.base:.4g}, packed {report.perplexity.packed:.4g}, tuned" in head
    assert f"gain kept: {report.kept:.2%}" in head
    title, heading, *rows = table.splitlines()
    total = sum(share.kl for share in report.tensors)
    assert title == f"what hurts most (parts add up to {total:.3g} nats):"
    assert heading.split() == ["modules", "tensors", "KL", "share"]
    parts = {row.split()[0]: float(row.split()[2]) for row in rows}
    assert list(parts.values()) == sorted(parts.values(), reverse=True)
    kinds = kind_names(share.name for share in report.tensors)
    assert set(parts) == set(kinds.values())
    for kind, part in parts.items():
        expected = sum(share.kl for share in report.tensors if kinds[share.name] == kind)
        assert part == pytest.approx(expected, rel=0.01, abs=1e-9)


def test_rows_of_the_table(run, arguments):
    assert len(run("eval", "tiny", *arguments, "--top", "2").stdout.split("\n\n")[1].splitlines()) == 4
    table = run("eval", "tiny", *arguments, "--top", "100", "--tensors").stdout.split("\n\n")[1]
    assert "model.layers.1.mlp.down_proj.weight" in table
    assert "what hurts" not in run("eval", "tiny", *arguments, "--top", "0").stdout


def test_json(run_json, arguments):
    found = run_json("eval", "tiny=0.5", *arguments, "--limit", "2", "--max-tokens", "10")
    assert (found["skill"], found["samples"], found["tokens"]) == ("tiny=0.5", 2, 18)
    assert found["kl_interval"][0] <= found["kl"] <= found["kl_interval"][1]
    assert found["accuracy"] == {"base": None, "packed": None, "tuned": None}
    assert {"tensor", "kl"} == found["tensors"][0].keys()


@pytest.mark.parametrize(
    ("data", "message"),
    [("missing.jsonl", "no such file"), ("broken.jsonl", "broken.jsonl, line 2 is not JSON")],
)
def test_data_that_cannot_be_read(run, arguments, tmp_path, data, message):
    (tmp_path / "broken.jsonl").write_text(json.dumps({"text": "fine"}) + "\nno json\n")
    result = run("eval", "tiny", *arguments, "--data", tmp_path / data)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "hint:" in result.stderr
    assert run("eval", "tiny", *arguments, "--limit", "0").exit_code == 2
    assert run("eval", "absent", *arguments).exit_code == 1
