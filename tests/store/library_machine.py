"""Random steps on a library, done to a store and to a model of it in memory, which must say the same after each.

There are two libraries; the steps go to the one that is in use (``self.store`` and ``self.model``), and which one that
is changes now and then. Steps that involve both are in ``sharing_machine``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from skillpack_store import (
    MergeConflictError,
    NotFoundError,
    Repository,
    Resolution,
    StoreError,
    create_branch,
    delete_ref,
    list_deleted,
    merge_revision,
    number_versions,
    ref_log,
    resolve_revision,
    restore_state,
    revert_commit,
    sorted_records,
    tag_revision,
    undelete_ref,
    undelete_skill,
)
from tests.store.library_model import LibraryModel, ModelCommit
from tests.store.skills import WHO, put_skill, verify_everything

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

taken: Counter[str] = Counter()
SKILLS = st.sampled_from(["a", "b", "c"])
CONTENTS = st.sampled_from(["1", "2", "3", "4"])
BRANCHES = st.sampled_from(["main", "try", "other"])
TAGS = st.sampled_from(["v1", "v2"])
ANY_REF = st.one_of(BRANCHES.map("heads/{}".format), TAGS.map("tags/{}".format))
SIDES = st.sampled_from([None, None, "ours", "theirs"])
RARELY = st.sampled_from([False, False, True])
NUMBERS = st.integers(0, 1 << 16)


@dataclass
class Library:
    """A store, and what it must be."""

    store: Repository
    model: LibraryModel


class LibraryMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=MEMORY))
        first = LibraryModel()
        self.here = Library(Repository.create(self.folder / "ada"), first)
        self.there = Library(Repository.create(self.folder / "bob"), LibraryModel(first.commits, before=first.before))
        self.contents = {}

    @property
    def store(self):
        return self.here.store

    @property
    def model(self):
        return self.here.model

    def teardown(self):
        try:
            for _ in range(2):
                self.finish()
                self.switch()
        finally:
            shutil.rmtree(self.folder)

    def finish(self):
        """See what another process would see, and what is left without anything derived."""
        self.reopen()
        self.everything_is_the_same()
        shutil.rmtree(self.store.path / "cache", ignore_errors=True)
        self.reopen()
        self.everything_is_the_same()
        for branch, head in self.model.named("heads").items():
            assert [commit.digest for commit in self.store.history(branch)] == self.model.line(head)
        verify_everything(self.store)

    @rule()
    def switch(self):
        """The other library is in use from now on."""
        taken["switch"] += 1
        self.here, self.there = self.there, self.here

    # Names

    def put(self, name, content):
        skill = put_skill(self.store, f"{name} {content}")
        self.contents[skill.digest] = content
        return skill

    def plain(self, skills):
        return {name: self.contents[skill.digest] for name, skill in skills.items()}

    def committed(self, ref, commit):
        """Note a commit that a branch names now."""
        if commit.digest not in self.model.commits:
            self.model.commits[commit.digest] = ModelCommit(self.plain(commit.skills), commit.parents)
        self.model.set(ref, commit.digest)

    def any_commit(self, number):
        """A commit of the live history, the way a user could name it."""
        refs = [f"heads/{name}" for name in self.model.named("heads")]
        refs += [f"tags/{name}" for name in self.model.named("tags")]
        ref = refs[number % len(refs)]
        line = self.model.line(self.model.refs[ref][-1])
        back = (number // len(refs)) % len(line)
        digest = line[back]
        text = [f"{ref}~{back}", digest, ref + "~" * back][number % 3]
        assert resolve_revision(self.store, text) == digest
        return text, digest

    def any_branch(self, number):
        """Mostly a branch that there is."""
        names = [*self.model.named("heads"), *self.model.named("heads"), "other"]
        return names[number % len(names)]

    def any_side(self, number):
        """Mostly the head of a branch."""
        names = list(self.model.named("heads"))
        if not names or number % 4 == 0:
            return self.any_commit(number // 4)
        name = names[number // 4 % len(names)]
        return name if name not in self.model.named("tags") else f"heads/{name}", self.head(name)

    def head(self, branch):
        return self.model.named("heads").get(branch)

    @contextmanager
    def expect(self, kind, *, when):
        """The step must fail with an error of this kind exactly if so."""
        before = {ref: list(log) for ref, log in self.model.refs.items()}
        if when:
            with pytest.raises(kind) as caught:
                yield
            assert caught.value.hint or caught.value.message
            assert self.model.refs == before
        else:
            yield

    # Steps

    @initialize(content=CONTENTS)
    def start(self, content):
        for name in ("a", "b"):
            self.commit("main", name, content)
        for branch in ("try", "other"):
            self.store.refs.update(f"heads/{branch}", self.head("main"), expected=None)
            self.model.set(f"heads/{branch}", self.head("main"))
            self.commit(branch, "c", content)

    @rule(branch=BRANCHES, name=SKILLS, content=CONTENTS)
    def commit(self, branch, name, content):
        taken["commit"] += 1
        skill = self.put(name, content)
        head = self.head(branch)
        before = self.model.skills(head) if head else {}
        commit = self.store.commit(branch, lambda skills: {**skills, name: skill}, message=f"{name} {content}", **WHO)
        assert self.plain(commit.skills) == {**before, name: content}
        assert (commit.digest == head) == (before.get(name) == content)
        assert commit.digest == head or commit.parents == ((head,) if head else ())
        self.committed(f"heads/{branch}", commit)

    @rule(branch=BRANCHES, name=SKILLS, content=CONTENTS)
    def commit_more(self, branch, name, content):
        """There are more commits than anything else."""
        self.commit(branch, name, content)

    @rule(first=NUMBERS, second=NUMBERS, name=SKILLS, content=CONTENTS, other=SKILLS)
    def cross(self, first, second, name, content, other):
        """Two branches change and each merges what the other one was, as far as that can be."""
        taken["cross"] += 1
        branches = list(self.model.named("heads"))
        if len(branches) < 2:
            return
        one, two = branches[first % len(branches)], branches[(first + 1) % len(branches)]
        self.commit(one, name, content)
        self.commit(two, other, content)
        heads = self.head(one), self.head(two)
        for branch, digest in ((one, heads[1]), (two, heads[0])):
            self.merge_into(branch, digest, digest, ["ours", "theirs"][second % 2], dry=False)

    @rule(branch=BRANCHES, name=SKILLS)
    def delete(self, branch, name):
        taken["delete"] += 1
        head = self.head(branch)
        there = head is not None and name in self.model.skills(head)
        with self.expect(NotFoundError, when=not there):
            commit = self.store.delete(name, branch, **WHO)
            self.committed(f"heads/{branch}", commit)
            assert name not in commit.skills

    @precondition(lambda self: self.model.named("heads"))
    @rule(branch=BRANCHES, number=NUMBERS)
    def branch(self, branch, number):
        taken["branch"] += 1
        text, digest = self.any_commit(number)
        with self.expect(StoreError, when=self.head(branch) not in {None, digest}):
            assert create_branch(self.store, branch, text) == digest
            self.model.set(f"heads/{branch}", digest)

    @precondition(lambda self: self.model.named("heads"))
    @rule(tag=TAGS, number=NUMBERS, move=st.booleans())
    def tag(self, tag, number, move):
        taken["tag"] += 1
        text, digest = self.any_commit(number)
        with self.expect(StoreError, when=self.model.named("tags").get(tag) not in {None, digest} and not move):
            assert tag_revision(self.store, tag, text, move=move) == digest
            self.model.set(f"tags/{tag}", digest)

    @rule(ref=ANY_REF)
    def delete_ref(self, ref):
        taken["delete ref"] += 1
        kind, _, name = ref.partition("/")
        with self.expect(NotFoundError, when=name not in self.model.named(kind)):
            assert delete_ref(self.store, ref) == self.model.refs[ref][-1]
            self.model.set(ref, None)

    @precondition(lambda self: self.model.named("heads"))
    @rule(into=NUMBERS, number=NUMBERS, side=SIDES, dry=st.sampled_from([False, False, True]))
    def merge(self, into, number, side, dry):
        taken["merge"] += 1
        self.merge_into(self.any_branch(into), *self.any_side(number), side, dry=dry)

    def merge_into(self, branch, text, theirs, side, *, dry):
        ours = self.head(branch)
        line = [] if ours is None else self.model.line(theirs)
        conflicts = set()
        if ours and theirs not in self.model.ancestors(ours) and ours not in line:
            skills, conflicts = self.model.merged(ours, theirs, side)
        wrong = MergeConflictError if conflicts and side is None else None
        with self.expect(wrong or NotFoundError, when=ours is None or wrong is not None):
            merge = merge_revision(self.store, branch, text, resolution=Resolution(side), dry_run=dry, **WHO)
            taken[f"{merge.kind} done"] += 1
            if theirs in self.model.ancestors(ours):
                assert (merge.kind, merge.commit.digest) == ("up to date", ours)
                return
            if ours in line:
                assert merge.kind == "fast-forward"
                skills = self.model.skills(theirs)
            else:
                assert (merge.kind, set(merge.resolved)) == ("merge", conflicts)
                assert set(merge.bases) == self.model.bases(ours, theirs)
            mine = self.model.skills(ours)
            changed = {name for name in skills.keys() | mine.keys() if skills.get(name) != mine.get(name)}
            assert {change.name for change in merge.changes} == changed
            taken[f"conflict resolved {len(conflicts)}"] += 1
            taken[f"bases {len(merge.bases)}"] += 1
            if not dry:
                assert self.plain(merge.commit.skills) == skills
                assert merge.kind == "fast-forward" or merge.commit.parents == (ours, theirs)
                self.committed(f"heads/{branch}", merge.commit)

    @precondition(lambda self: self.model.named("heads"))
    @rule(into=NUMBERS, number=NUMBERS, names=st.lists(SKILLS, unique=True, max_size=2))
    def restore(self, into, number, names):
        taken["restore"] += 1
        branch = self.any_branch(into)
        head = self.head(branch)
        text, old = self.any_commit(number)
        known = self.model.skills(old).keys() | (self.model.skills(head).keys() if head else set())
        with self.expect(NotFoundError, when=head is None or not set(names) <= known):
            undone = restore_state(self.store, text, names, branch, **WHO)
            taken["restore done"] += 1
            wanted = set(names) or known
            skills = {name: content for name, content in self.model.skills(head).items() if name not in wanted}
            skills |= {name: content for name, content in self.model.skills(old).items() if name in wanted}
            assert self.plain(undone.commit.skills) == skills
            self.committed(f"heads/{branch}", undone.commit)

    @precondition(lambda self: self.model.named("heads"))
    @rule(into=NUMBERS, number=NUMBERS)
    def revert(self, into, number):
        taken["revert"] += 1
        branch = self.any_branch(into)
        head = self.head(branch)
        text, old = self.any_commit(number)
        skills, conflicts = self.model.reverted(head, old) if head else ({}, set())
        with self.expect(MergeConflictError if conflicts else NotFoundError, when=head is None or bool(conflicts)):
            undone = revert_commit(self.store, text, branch, **WHO)
            taken["revert done"] += 1
            assert self.plain(undone.commit.skills) == skills
            self.committed(f"heads/{branch}", undone.commit)

    @rule(into=NUMBERS, name=SKILLS)
    def undelete_skill(self, into, name):
        taken["undelete skill"] += 1
        branch = self.any_branch(into)
        deleted = self.model.deleted(self.head(branch)) if self.head(branch) else {}
        name = next(iter(deleted), name)
        head = self.head(branch)
        deleted = self.model.deleted(head) if head else {}
        with self.expect(StoreError, when=name not in deleted):
            undone = undelete_skill(self.store, name, branch, **WHO)
            taken["undelete skill done"] += 1
            assert self.plain(undone.commit.skills) == {**self.model.skills(head), name: deleted[name]}
            self.committed(f"heads/{branch}", undone.commit)

    @rule(ref=ANY_REF)
    def undelete_ref(self, ref):
        taken["undelete ref"] += 1
        ref = next((own for own in self.model.refs if own in self.model.deleted_refs()), ref)
        log = self.model.refs.get(ref, [])
        last = self.model.last(ref)
        with self.expect(StoreError, when=last is None or log[-1] is not None):
            assert undelete_ref(self.store, ref) == last
            taken["undelete ref done"] += 1
            self.model.set(ref, last)

    @rule()
    def reopen(self):
        taken["reopen"] += 1
        self.here.store = Repository.open(self.store.path)

    @precondition(lambda self: self.model.named("heads"))
    @rule(number=NUMBERS)
    def damage_what_is_derived(self, number):
        """The cache and the view are nothing that anything depends on."""
        taken["damage"] += 1
        files = sorted(path for path in (self.store.path / "cache").rglob("*") if path.is_file())
        files.append(self.store.path / "index.json")
        path = files[number % len(files)]
        data = path.read_bytes()
        path.write_bytes(data[: number % (len(data) + 1)])
        self.here.store = Repository.open(self.store.path)

    # What must hold

    @invariant()
    def refs_are_the_same(self):
        taken["steps"] += 1
        for library in (self.here, self.there):
            for kind in ("heads", "tags", "remotes"):
                found = {name: value.digest for name, value in library.store.refs.list(kind).items()}
                assert found == library.model.named(kind), kind

    @rule(now=RARELY)
    def look_at_everything(self, now):
        if now:
            self.everything_is_the_same()

    def everything_is_the_same(self):
        taken["everything"] += 1
        for ref, log in self.model.refs.items():
            entries = self.store.refs.log(ref)
            assert [entry.digest for entry in entries] == log[::-1]
            first = self.model.first[ref]
            assert [entry.number for entry in entries[::-1]] == list(range(first, first + len(log)))
            assert ref.startswith("remotes/") or [entry.value for entry in ref_log(self.store, ref)] == entries
        gone = {(entry.kind, entry.name, entry.digest) for entry in list_deleted(self.store) if entry.kind != "skill"}
        kinds = {"heads": "branch", "tags": "tag"}
        refs = {(kinds[ref.partition("/")[0]], ref.partition("/")[2]): last
                for ref, last in self.model.deleted_refs().items()}  # fmt: skip
        assert gone == {(*what, last) for what, last in refs.items()}
        for branch, head in self.model.named("heads").items():
            self.history_is_the_same(branch, head)

    def history_is_the_same(self, branch, head):
        skills = self.model.skills(head)
        assert self.plain(self.store.skills(branch)) == skills
        found = {entry.name: self.contents[entry.digest] for entry in list_deleted(self.store, branch)
                 if entry.kind == "skill"}  # fmt: skip
        assert found == self.model.deleted(head)
        for skill in self.store.skills(branch).values():
            listed = [entry.digest for entry in self.store.referrers(skill.digest)]
            assert sorted(listed) == sorted(self.model.attached.get(skill.digest, ()))
        order = [record.digest for record in sorted_records(self.store, head)]
        assert sorted(order) == sorted(self.model.ancestors(head))
        places = {digest: place for place, digest in enumerate(order)}
        for digest in order:
            assert all(places[parent] > places[digest] for parent in self.model.commits[digest].parents)
        numbered = number_versions(self.store, head)
        for name in ["a", "b", "c"]:
            versions = self.model.versions(head, name)
            assert [self.contents[digest] for digest in numbered.get(name, {})] == versions
            if name in skills:
                resolved = self.store.resolve(name, branch)
                assert resolved.version == versions.index(skills[name]) + 1
                assert self.contents[self.store.resolve(f"{name}@1", branch).descriptor.digest] == versions[0]
