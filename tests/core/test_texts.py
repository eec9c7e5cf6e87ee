from __future__ import annotations

import json
import sys

import pytest

from skillpack.errors import DataError, UsageError
from skillpack.texts import Sample, read_samples

USER = {"role": "user", "content": "Write 2."}
ANSWER = {"role": "assistant", "content": "dos"}


@pytest.fixture
def write(tmp_path):
    def write(name, *rows):
        path = tmp_path / name
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    return write


def test_paragraphs_are_samples(write):
    path = write("a.txt", "One", "line two", "", "  ", "Two", "")
    assert read_samples(path) == [Sample(text="One\nline two"), Sample(text="Two")]
    assert read_samples(str(path), limit=1) == [Sample(text="One\nline two")]


@pytest.mark.parametrize(
    ("row", "sample"),
    [
        ({"messages": [USER, ANSWER]}, Sample(messages=(USER, ANSWER))),
        ({"messages": [{**USER, "name": "Ada"}], "id": 7}, Sample(messages=(USER,))),
        ({"prompt": "Write 2.", "completion": "dos"}, Sample(messages=(USER, ANSWER))),
        ({"prompt": "Write 2.", "answer": "dos"}, Sample(messages=(USER, ANSWER))),
        ({"prompt": "Write 2.", "response": "dos", "completion": None}, Sample(messages=(USER, ANSWER))),
        ({"prompt": [USER], "completion": [ANSWER]}, Sample(messages=(USER, ANSWER))),
        ({"prompt": "Write 2."}, Sample(messages=(USER,))),
        ({"text": "dos"}, Sample(text="dos")),
        ({"text": "good", "label": 1}, Sample(text="good", label=1)),
        ({"text": "good", "label": "positive"}, Sample(text="good", label="positive")),
    ],
)
def test_forms_of_a_line(write, row, sample):
    assert read_samples(write("a.jsonl", "", row)) == [sample]


def test_prompts_wait_for_an_answer():
    assert Sample(messages=(USER,)).is_prompt
    assert Sample(messages=(USER, ANSWER, USER)).is_prompt
    assert not Sample(messages=(USER, ANSWER)).is_prompt
    assert not Sample(text="dos").is_prompt


def test_a_limit_reads_no_further(write):
    path = write("a.jsonl", {"text": "a"}, {"text": "b"}, "this is not read")
    assert [sample.text for sample in read_samples(path, limit=2)] == ["a", "b"]
    with pytest.raises(UsageError, match="0 samples"):
        read_samples(path, limit=0)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([1], "holds a list where an object is expected"),
        ({}, "has only no keys"),
        ({"question": "?", "label": 1}, "has only label, question"),
        ({"text": 5}, "text: the int 5 where text is expected"),
        ({"text": "good", "label": True}, "label: true or false where the number or the name"),
        ({"text": "good", "label": 0.5}, "label: the float 0.5"),
        ({"messages": []}, "messages: an empty list where a list of turns"),
        ({"messages": "hi"}, "messages: text where a list of turns"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "messages: turn 2 is not"),
        ({"prompt": "a", "completion": {"text": "b"}}, "completion: an object where text"),
        ({"prompt": ["a"]}, "prompt: turn 1 is not"),
    ],
)
def test_the_line_at_fault_is_named(write, row, problem):
    path = write("a.jsonl", {"text": "fine"}, row)
    with pytest.raises(DataError, match=r"a\.jsonl, line 2") as raised:
        read_samples(path)
    assert problem in raised.value.message
    assert '{"text": …}' in raised.value.hint


def test_files_that_cannot_be_read(write, tmp_path):
    with pytest.raises(DataError, match="no such file") as raised:
        read_samples(tmp_path / "missing.jsonl")
    assert "org/name:test" in raised.value.hint
    with pytest.raises(DataError, match=r"end in \.txt or \.jsonl"):
        read_samples(write("a.csv", "text"))
    with pytest.raises(DataError, match="holds no text"):
        read_samples(write("empty.txt", "", " "))
    (tmp_path / "latin.txt").write_bytes(b"ni\xf1o")
    with pytest.raises(DataError, match="not UTF-8"):
        read_samples(tmp_path / "latin.txt")


def test_a_mark_at_the_beginning_is_no_text(tmp_path):
    """Some editors write the byte order mark."""
    (tmp_path / "a.txt").write_text("a", encoding="utf-8-sig")
    (tmp_path / "a.jsonl").write_text('{"text": "a"}', encoding="utf-8-sig")
    assert read_samples(tmp_path / "a.txt") == read_samples(tmp_path / "a.jsonl") == [Sample(text="a")]


def test_a_dataset_needs_its_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="not installed") as raised:
        read_samples(tmp_path)
    assert raised.value.hint == 'python -m pip install "skillpack[data]"'


@pytest.fixture
def dataset():
    return pytest.importorskip("datasets").Dataset.from_list(
        [{"prompt": f"Write {number}.", "answer": str(number)} for number in range(5)]
    )


def test_a_saved_dataset(dataset, tmp_path):
    dataset.save_to_disk(tmp_path / "saved")
    samples = read_samples(tmp_path / "saved", limit=3)
    assert [sample.messages[1]["content"] for sample in samples] == ["0", "1", "2"]
    assert len(read_samples(tmp_path / "saved")) == 5
    with pytest.raises(DataError, match="no splits"):
        read_samples(f"{tmp_path}/saved:test")


def test_splits_of_a_dataset(dataset, tmp_path):
    import datasets

    datasets.DatasetDict(train=dataset, test=dataset.select([4])).save_to_disk(tmp_path / "saved")
    assert len(read_samples(f"{tmp_path}/saved:test")) == 1
    with pytest.raises(DataError, match="several splits; there are train, test") as raised:
        read_samples(tmp_path / "saved")
    assert raised.value.hint.endswith("saved:train")
    with pytest.raises(DataError, match="no split dev"):
        read_samples(f"{tmp_path}/saved:dev")


def test_a_folder_of_data_files(dataset, tmp_path):
    (tmp_path / "files").mkdir()
    dataset.to_parquet(tmp_path / "files" / "train.parquet")
    assert len(read_samples(tmp_path / "files")) == 5
    bad = dataset.remove_columns("prompt")
    bad.to_parquet(tmp_path / "files" / "train.parquet")
    with pytest.raises(DataError, match="row 1: has only answer"):
        read_samples(tmp_path / "files")


def test_a_folder_that_is_no_dataset(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="cannot be read"):
        read_samples(tmp_path)
