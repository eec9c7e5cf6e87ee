"""Tokenizer and config files: what is carried, what counts as a change, how changes are applied and combined."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.companions import FileChange, apply, carries, combine, difference, find_companions
from skillpack.errors import ConflictError, DamagedSkillError, WrongBaseError

TOKENIZER = {
    "version": "1.0",
    "truncation": None,
    "added_tokens": [{"id": 0, "content": "<s>", "special": True}],
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "é": 3}, "merges": ["a b"]},
}


def changes(tmp_path, base, tuned, name="config.json"):
    """Changes between two documents (or bytes; None for no file) of one name."""
    files = []
    for side, document in (("base", base), ("tuned", tuned)):
        (tmp_path / side).mkdir(exist_ok=True)
        file = tmp_path / side / name
        if document is not None:
            file.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
        files.append({} if document is None else {name: file})
    return difference(*files)


def patch(change):
    assert change.kind == "patch"
    return json.loads(change.content)


@pytest.mark.parametrize(
    ("name", "carried"),
    [
        ("tokenizer.json", True),
        ("special_tokens_map.json", True),
        ("chat_template.jinja", True),
        ("additional_chat_templates/tool_use.jinja", True),
        ("vocab.txt", True),
        ("merges.txt", True),
        ("spiece.model", True),
        ("tokenizer.model.v3", True),
        ("qwen.tiktoken", True),
        ("modules.json", True),
        ("model.safetensors.index.json", False),
        ("pytorch_model.bin.index.json", False),
        ("model.safetensors", False),
        ("trainer_state.json", False),
        ("adapter_config.json", False),
        ("training_args.bin", False),
        ("requirements.txt", False),
        ("README.md", False),
        ("LICENSE", False),
        ("modeling_x.py", False),
    ],
)
def test_what_is_carried(name, carried):
    assert carries(name) is carried


def test_find_companions_looks_into_the_models_own_folders_only(tmp_path):
    for name in ("config.json", "modeling_x.py", "1_Pooling/config.json", "checkpoint-5/config.json", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    carried, code = find_companions(tmp_path, ["1_Pooling"])
    assert list(carried) == ["1_Pooling/config.json", "config.json"]
    assert carried["config.json"] == tmp_path / "config.json"
    assert code == ("modeling_x.py",)


@pytest.mark.parametrize(
    "rewritten",
    [
        json.dumps(TOKENIZER, indent=4).encode(),
        json.dumps(TOKENIZER, ensure_ascii=False).encode(),
        json.dumps(dict(reversed(TOKENIZER.items()))).encode(),
        json.dumps(TOKENIZER).replace('"id": 0', '"id": 0.0').encode(),
        {**TOKENIZER, "truncation": {"max_length": 64}, "padding": {"strategy": "BatchLongest"}},
        {**TOKENIZER, "model": {**TOKENIZER["model"], "merges": [["a", "b"]]}},
        {**TOKENIZER, "model": {**TOKENIZER["model"], "dropout": None, "ignore_merges": False}},
        {**TOKENIZER, "added_tokens": [{**TOKENIZER["added_tokens"][0], "lstrip": False}]},
        {key: value for key, value in TOKENIZER.items() if key != "truncation"},
    ],
    ids=["spaces", "escapes", "order", "numbers", "state", "pairs", "defaults", "token", "null"],
)
def test_a_rewritten_tokenizer_costs_nothing(tmp_path, rewritten):
    assert changes(tmp_path, TOKENIZER, rewritten, "tokenizer.json") == []
    if not isinstance(rewritten, bytes):
        assert changes(tmp_path, rewritten, TOKENIZER, "tokenizer.json") == []


def test_new_merges_are_written_like_the_bases(tmp_path):
    vocab = TOKENIZER["model"]["vocab"] | {"abab": 4}
    tuned = {**TOKENIZER, "model": {**TOKENIZER["model"], "vocab": vocab, "merges": [["a", "b"], ["ab", "ab"]]}}
    (change,) = changes(tmp_path, TOKENIZER, tuned, "tokenizer.json")
    assert patch(change) == [
        {"op": "add", "path": "/model/merges/-", "value": "ab ab"},
        {"op": "add", "path": "/model/vocab/abab", "value": 4},
    ]


def test_notes_of_the_writing_library_cost_nothing(tmp_path):
    base = {"hidden_size": 8, "transformers_version": "4.40.0", "_name_or_path": "x", "torch_dtype": "bfloat16"}
    tuned = {"dtype": "bfloat16", "hidden_size": 8.0, "transformers_version": "5.0.0"}
    assert changes(tmp_path, base, tuned) == []
    (change,) = changes(tmp_path, base, tuned | {"hidden_size": 9})
    assert patch(change) == [{"op": "replace", "path": "/hidden_size", "value": 9}]
    assert json.loads(apply(change, json.dumps(base).encode())) == base | {"hidden_size": 9}


def test_true_is_not_one(tmp_path):
    assert changes(tmp_path, {"a": True}, {"a": 1.0})
    assert changes(tmp_path, {"a": [1]}, {"a": [True]})


def test_least_patch(tmp_path):
    base = {"keep": {"x": [1, 2]}, "gone": 1, "list": ["a"], "other": [1, 2], "a/b~c": 1}
    tuned = {"keep": {"x": [1, 2], "new": None}, "list": ["a", "b", "c"], "other": [2], "a/b~c": 2}
    (change,) = changes(tmp_path, base, tuned)
    assert patch(change) == [
        {"op": "replace", "path": "/a~1b~0c", "value": 2},
        {"op": "remove", "path": "/gone"},
        {"op": "add", "path": "/keep/new", "value": None},
        {"op": "add", "path": "/list/-", "value": "b"},
        {"op": "add", "path": "/list/-", "value": "c"},
        {"op": "replace", "path": "/other", "value": [2]},
    ]
    text = apply(change, json.dumps(base).encode()).decode()
    assert json.loads(text) == tuned
    assert text.startswith('{\n  "')
    assert text.endswith("}\n")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
documents = st.dictionaries(st.text(max_size=3), values, max_size=5)


@settings(deadline=None)
@given(documents, documents)
def test_patch_of_any_two_documents_leads_from_one_to_the_other(tmp_path_factory, base, tuned):
    for change in changes(tmp_path_factory.mktemp("any"), base, tuned):
        assert json.loads(apply(change, json.dumps(base).encode())) == tuned


def test_files_only_in_tuned_are_whole_and_files_only_in_base_stay(tmp_path):
    (change,) = changes(tmp_path, None, b"{{ messages }}", "chat_template.jinja")
    assert change == FileChange("chat_template.jinja", "whole", b"{{ messages }}")
    assert apply(change, None) == apply(change, b"old") == b"{{ messages }}"
    assert changes(tmp_path, {"a": 1}, None) == []


@pytest.mark.parametrize("base", [b"not json", b"[1]", b"[" * 200 + b"]" * 200, b"\xff"])
def test_what_is_not_a_json_object_is_compared_by_bytes(tmp_path, base):
    (change,) = changes(tmp_path, base, {"a": 1})
    assert change.kind == "whole"
    (change,) = changes(tmp_path, {"a": 1}, base)
    assert (change.kind, change.content) == ("whole", base)
    assert changes(tmp_path, base, base) == []


def test_a_patch_larger_than_the_file_is_not_used(tmp_path):
    (change,) = changes(tmp_path, {str(n): 0 for n in range(500)}, {"a": 1})
    assert change.kind == "whole"
    (change,) = changes(tmp_path, {str(n): 0 for n in range(9)}, {"a": 1})
    assert change.kind == "patch"


@pytest.mark.parametrize("current", [None, b"no json", b'{"b": 1}', b"[1]", b'{"a": 1}'])
def test_a_patch_that_does_not_fit_is_refused(current):
    change = FileChange("config.json", "patch", b'[{"op":"replace","path":"/a/b","value":1}]')
    with pytest.raises(WrongBaseError, match=r"config\.json") as caught:
        apply(change, current)
    assert caught.value.exit_code == 12


def test_adding_what_is_there_does_not_fit():
    change = FileChange("config.json", "patch", b'[{"op":"add","path":"/a","value":1}]')
    with pytest.raises(WrongBaseError, match="already there: /a"):
        apply(change, b'{"a": 2}')


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b'[{"op":"move","from":"/a","path":"/b"}]',
        b'[{"op":"add","path":"a","value":1}]',
        b'[{"op":"add","path":"/a"}]',
        b'[{"op":"remove","path":""}]',
        b'[{"op":"add","path":1,"value":1}]',
        b"[" * 100_000,
    ],
)
def test_malformed_patches_are_refused(content):
    with pytest.raises(DamagedSkillError, match="not a valid patch"):
        apply(FileChange("config.json", "patch", content), b"{}")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/config.json",
        "../config.json",
        "a/../config.json",
        "./config.json",
        "a//config.json",
        ".skillpack/receipt.json",
        "a/.git/config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "modeling.py",
        "a\\config.json",
        "c:config.json",
        "a\0.json",
        "\u202econfig.json",
        "con\u0301fig.json",
        "config.json\n",
        "a /config.json",
        "",
        "x" * 300 + ".json",
    ],
)
def test_hostile_paths_are_refused(path):
    with pytest.raises(DamagedSkillError, match="may not change"):
        FileChange(path, "whole", b"")


def test_unknown_kind_is_refused():
    with pytest.raises(DamagedSkillError, match="kind"):
        FileChange("config.json", "diff", b"")


def step(op, path, value=None):
    return {"op": op, "path": path, **({} if op == "remove" else {"value": value})}


def patched(*steps):
    return [FileChange("config.json", "patch", json.dumps(steps).encode())]


def test_changes_of_several_skills_are_combined_in_any_order():
    first = patched(step("replace", "/a", 1), step("add", "/list/-", "x"), step("add", "/list/-", "y"))
    second = patched(step("add", "/list/-", "x"), step("add", "/list/-", "y"), step("remove", "/b"))
    other = [FileChange("chat_template.jinja", "whole", b"t")]
    combined = combine({"one": first, "two": [*second, *other], "three": other})
    assert combined == combine({"three": other, "two": [*second, *other], "one": first})
    assert [change.path for change in combined] == ["chat_template.jinja", "config.json"]
    result = json.loads(apply(combined[1], b'{"a": 0, "b": 0, "list": []}'))
    assert result == {"a": 1, "list": ["x", "y"]}


@pytest.mark.parametrize(
    ("first", "second", "place"),
    [
        (patched(step("replace", "/a/b", 1)), patched(step("replace", "/a/b", 2)), "a/b"),
        (patched(step("replace", "/a", 1)), patched(step("replace", "/a", True)), "a"),
        (patched(step("replace", "/a", {})), patched(step("replace", "/a/b/c", 2)), "a/b/c"),
        (patched(step("add", "/l/-", 1)), patched(step("add", "/l/-", 2)), "l/-"),
        (patched(step("remove", "/a")), patched(step("replace", "/a", 2)), "a"),
        (patched(step("remove", "/a")), [FileChange("config.json", "whole", b"{}")], "config.json"),
        ([FileChange("config.json", "whole", b"{ }")], [FileChange("config.json", "whole", b"{}")], "config.json"),
    ],
)
def test_conflicts_name_the_skills_the_file_and_the_place(first, second, place):
    with pytest.raises(ConflictError, match=f"math and spanish set {place}") as caught:
        combine({"spanish": first, "math": second, "third": []})
    assert "config.json" in str(caught.value)


@pytest.mark.real_model
def test_smollm2s_tokenizer_saved_again_by_transformers_costs_nothing(tmp_path):
    import transformers

    from recipes.models import smollm2

    base = smollm2()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    tokenizer(["a", "a longer text"], padding=True, truncation=True, max_length=8)
    tokenizer.save_pretrained(tmp_path)
    before, _ = find_companions(base)
    after, _ = find_companions(tmp_path)
    assert "tokenizer.json" in after
    assert difference(before, after) == []
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path)
    sizes = {change.path: len(change.content) for change in difference(before, find_companions(tmp_path)[0])}
    assert 0 < sizes["tokenizer.json"] < 300
