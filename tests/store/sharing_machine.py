"""Random steps of upkeep, and between two libraries: time, collections, checks, push, pull, clone, archives."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from skillpack_store import (
    NotFoundError,
    Repository,
    StoreError,
    export_archive,
    import_archive,
    import_referrers,
)
from skillpack_store.collecting import DAY, collect_garbage, undo_collection
from skillpack_store.errors import DivergedError
from skillpack_store.findings import Problem
from skillpack_store.fsck import check_store
from skillpack_store.refs import build_entry
from skillpack_store.remotes.folder import FolderRemote
from skillpack_store.transfer import fetch, pull, push
from skillpack_store.view import refresh_index
from tests.store.library_machine import (
    ANY_REF,
    BRANCHES,
    CONTENTS,
    NUMBERS,
    RARELY,
    SIDES,
    SKILLS,
    Library,
    LibraryMachine,
    taken,
)
from tests.store.library_model import LibraryModel
from tests.store.skills import WHO

CARD = "application/vnd.skillpack.card.v1"
# Halves, so that nothing is as old as a limit to the millisecond.
GRACE, TRASH_GRACE, EXPIRY = 14.5, 7.5, 90.5  # days
DAYS = st.sampled_from([1, 11, 47, 100])
SOME = st.one_of(st.none(), BRANCHES)  # a branch, or all
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_BATCH = "%Y%m%dT%H%M%SZ"


def trash_of(store):
    """Digest -> when it was put into the trash last, seconds since 1970."""
    return {blob.digest: batch.time for batch in store.trash.batches() for blob in store.trash.blobs(batch)}


def on_disk(store):
    return set(store.blobs) | trash_of(store).keys()


def make_older(store, days):
    """Make everything in a store look as if it had happened days earlier."""
    for path in [*store.blobs.folder.iterdir(), *store.trash.folder.glob("*/*")]:
        moment = path.lstat().st_mtime - days * DAY
        os.utime(path, (moment, moment))
    for batch in store.trash.batches():
        begun, _, random = batch.name.partition("-")
        earlier = datetime.strptime(begun, _BATCH).replace(tzinfo=timezone.utc) - timedelta(days=days)
        (store.trash.folder / batch.name).rename(store.trash.folder / f"{earlier.strftime(_BATCH)}-{random}")
    for ref in store.refs.all_names():
        for entry in store.refs.log(ref):
            moment = datetime.strptime(entry.time, _TIME).replace(tzinfo=timezone.utc) - timedelta(days=days)
            path = store.refs.folder / ref / str(entry.number)
            path.write_bytes(build_entry(entry.digest, moment.strftime(_TIME)))


def list_ref(subject):
    return f"referrers/{subject.replace(':', '-')}"


def lists_of(store, subject):
    """The lists of what is attached to a skill, and of what was not too long ago."""
    before = datetime.strftime(datetime.fromtimestamp(time.time() - EXPIRY * DAY, timezone.utc), _TIME)
    found = set()
    for entry in store.refs.log(list_ref(subject)):
        found.add(entry.digest)
        if entry.time < before:
            # What it took the place of has expired.
            break
    return found - {None}


class SharingMachine(LibraryMachine):
    def __init__(self):
        super().__init__()
        self.named_by = {}
        self.clones = 0

    def finish(self):
        self.mend()
        super().finish()
        self.check("full")

    # What leads where, by the documents themselves

    def leads_to(self, store, digest):
        """The digests that a blob refers to, and those that it only mentions; none if it is no document."""
        if digest not in self.named_by:
            path = store.blobs.path(digest)
            path = path if path.exists() else store.trash.find(digest)
            if path is None:
                return set(), set()
            data = path.read_bytes()
            self.named_by[digest] = self.parsed(json.loads(data)) if data[:1] == b"{" else (set(), set())
        return self.named_by[digest]

    def parsed(self, document):
        entries = [*document.get("manifests", []), *document.get("layers", [])]
        entries += [document[key] for key in ("config", "subject") if key in document]
        referred = {entry["digest"] for entry in entries}
        referred.update(document.get("annotations", {}).get("org.skillpack.parents", "").split())
        return referred, set(_DIGEST.findall(json.dumps(document))) - referred

    def reached(self, store, roots):
        """Everything that digests lead to."""
        found, waiting = set(), list(roots)
        while waiting:
            digest = waiting.pop()
            if digest not in found:
                found.add(digest)
                waiting += self.leads_to(store, digest)[0]
        return found

    def in_use(self, store, roots):
        """Everything that a collection has to keep: with what is mentioned, and what is attached to any of it."""
        found, kept, waiting = set(), set(), set(roots)
        while waiting:
            found |= self.reached(store, waiting - found)
            kept = found.union(*(self.leads_to(store, digest)[1] for digest in found))
            waiting = set().union(*(lists_of(store, digest) for digest in kept)) - found
        return kept

    def whole(self, store, digest):
        """Tell whether a commit is there with all that it refers to."""
        return self.reached(store, [digest]) <= on_disk(store)

    def mend(self):
        """Make index.json what it should be, in case that ``damage_what_is_derived`` spoiled it."""
        refresh_index(self.store)

    # Upkeep

    @rule(days=DAYS)
    def time_passes(self, days):
        taken["time"] += 1
        for library in (self.here, self.there):
            make_older(library.store, days)
            library.model.today += days

    @rule(at_once=st.booleans(), empty=st.booleans(), dry=RARELY)
    def collect(self, at_once, empty, dry):
        taken["collect"] += 1
        self.mend()
        store, model = self.store, self.model
        if at_once:
            make_blobs_older(store)
        limits = {"grace": 0.0 if at_once else GRACE * DAY, "trash_grace": 0.0 if empty else TRASH_GRACE * DAY}
        limits["expiry"] = EXPIRY * DAY
        roots = model.unexpired(EXPIRY)
        with self.expect(StoreError, when=not roots and any(True for _ in store.blobs)):
            there, trash = set(store.blobs), trash_of(store)
            since = time.time() - limits["grace"]
            recent = {digest for digest in there if store.blobs.path(digest).lstat().st_mtime >= since}
            kept = self.in_use(store, roots | recent)
            garbage = there - kept
            until = time.time() - limits["trash_grace"]
            doomed = {digest for digest, moment in trash.items() if moment <= until} - kept
            report = collect_garbage(store, dry_run=dry, **limits)
            if dry:
                assert (set(store.blobs), trash_of(store)) == (there, trash)
                assert (report.trashed.number, report.deleted.number) == (len(garbage), len(doomed))
                taken["collected nothing dry"] += 1
                return
            assert report.trashed.number == len(garbage)
            assert report.restored.number == len(trash.keys() & kept)
            doomed |= garbage if empty else set()
            assert report.deleted.number == len(doomed)
            assert set(store.blobs) == there - garbage | trash.keys() & kept
            assert trash_of(store).keys() == (trash.keys() | garbage) - kept - doomed
            assert self.reached(store, roots) <= set(store.blobs)
            pruned = model.prune(EXPIRY)
            assert report.pruned >= pruned
            for subject in model.attached.keys() - kept:
                if store.refs.read(list_ref(subject)) is None:
                    del model.attached[subject]
            taken["log pruned"] += bool(pruned)
            taken["collected"] += bool(garbage)
            taken["trash emptied"] += bool(doomed)

    @rule(name=SKILLS, number=NUMBERS, days=DAYS, empty=RARELY, undo=st.booleans())
    def abandon(self, name, number, days, empty, undo):
        """Somebody packs a skill and never commits it."""
        taken["abandon"] += 1
        self.put(name, str(number))
        self.time_passes(days)
        self.collect(False, empty, False)
        if undo:
            self.undo_collection()

    @rule(ref=ANY_REF, days=DAYS, at_once=st.booleans(), empty=st.booleans(), dry=RARELY)
    def forget(self, ref, days, at_once, empty, dry):
        """A ref is deleted, its log expires, and what only it named is collected."""
        taken["forget"] += 1
        if self.model.value(ref):
            self.delete_ref(ref)
        self.time_passes(100)
        self.collect(at_once, empty, dry)
        self.time_passes(days)

    @rule()
    def undo_collection(self):
        taken["undo"] += 1
        before, trash = on_disk(self.store), trash_of(self.store)
        assert undo_collection(self.store).number == len(trash)
        assert set(self.store.blobs) == before
        assert trash_of(self.store) == {}
        taken["collection undone"] += bool(trash)

    @rule(level=st.sampled_from(["quick", "sizes", "full"]))
    def check(self, level):
        taken["checked"] += 1
        self.mend()
        checked = check_store(self.store, level=level)
        assert checked.errors == [], checked.errors
        # What is attached to a skill that came back from the trash may follow it when it is needed.
        assert {note.problem for note in checked.notes} <= {Problem.BLOB_IN_TRASH}, checked.notes
        named = self.reached(self.store, self.model.unexpired(float("inf")))
        assert [note for note in checked.notes if note.digest in named] == []

    @precondition(lambda self: self.model.named("heads"))
    @rule(number=NUMBERS, content=CONTENTS)
    def attach(self, number, content):
        skills = list(self.store.skills(self.any_branch(number)).values())
        for skill in skills[:1]:
            taken["attach"] += 1
            card = self.store.attach(skill, CARD, [(content.encode(), "text/plain", "x")])
            self.model.attached.setdefault(skill.digest, set()).add(card.digest)

    # Between the two

    def attachments_move(self, source, target, reached, disks):
        """What is attached in one library is attached in the other as well, to what both have."""
        for subject, attached in source.model.attached.items():
            if subject in disks[0] and (subject in disks[1] or subject in reached):
                own = target.model.attached.setdefault(subject, set())
                taken["attachments moved"] += not attached <= own
                own |= attached

    def chosen(self, library, branch):
        """Ref -> digest of a branch, or of all; None where there is no such branch."""
        heads = library.model.named("heads")
        return {f"heads/{name}": heads.get(name) for name in (heads if branch is None else [branch])}

    def follows(self, new, old):
        return old in self.model.ancestors(new)

    @rule(branch=SOME, all_tags=st.booleans(), force=RARELY, dry=RARELY)
    def push(self, branch, all_tags, force, dry):
        taken["push"] += 1
        mine, theirs = self.model, self.there.model
        wanted = self.chosen(self.here, branch)
        missing = None in wanted.values()
        if all_tags:
            wanted |= {f"tags/{tag}": digest for tag, digest in mine.named("tags").items()}
        changes = {ref: new for ref, new in wanted.items() if theirs.value(ref) != new}
        olds = {ref: old for ref in changes if not missing and (old := theirs.value(ref))}
        forced = {ref for ref, old in olds.items() if ref.startswith("tags/") or not self.follows(changes[ref], old)}
        refused = bool(forced) and not force
        disks = on_disk(self.store), on_disk(self.there.store)
        with self.expect(NotFoundError if missing else DivergedError, when=missing or refused):
            taken["push refused"] += refused
            report = push(
                *(self.store, FolderRemote(self.there.store.path), "origin"),
                branches=None if branch is None else [branch],
                all_tags=all_tags,
                force=force,
                dry_run=dry,
                jobs=1,
            )
            assert {change.ref: change.new for change in report.changes} == changes
            assert {change.ref for change in report.changes if change.forced} == forced
            if dry:
                return
            taken["pushed"] += bool(changes)
            taken["push forced"] += bool(forced)
            for ref, new in changes.items():
                theirs.set(ref, new)
            for name, digest in theirs.named("heads").items():
                if digest in changes.values() or self.whole(self.store, digest):
                    mine.set(f"remotes/origin/{name}", digest)
            self.attachments_move(self.here, self.there, self.reached(self.store, changes.values()), disks)

    @rule(branch=SOME, all_tags=RARELY, force=RARELY, dry=RARELY, only_fetch=RARELY)
    def pull(self, branch, all_tags, force, dry, only_fetch):
        taken["pull"] += 1
        mine, theirs = self.model, self.there.model
        options = {"branches": None if branch is None else [branch], "all_tags": all_tags}
        options |= {"force": force, "dry_run": dry, "jobs": 1}
        arguments = self.store, FolderRemote(self.there.store.path), "origin"
        wanted = self.chosen(self.there, branch)
        tags = {f"tags/{tag}": digest for tag, digest in theirs.named("tags").items()}
        missing = None in wanted.values() or not (theirs.named("heads") or tags)
        clash = any((mine.value(ref) or digest) != digest for ref, digest in tags.items())
        if missing or (all_tags and clash and not force):
            with self.expect(NotFoundError if missing else DivergedError, when=True):
                (fetch if only_fetch else pull)(*arguments, **options)
            return
        reached = self.reached(self.there.store, wanted.values())
        disks = on_disk(self.there.store), on_disk(self.store)
        if not all_tags:
            tags = {ref: digest for ref, digest in tags.items() if digest in reached | disks[1]}
        changes = {f"remotes/origin/{ref.removeprefix('heads/')}": digest for ref, digest in wanted.items()} | tags
        changes = {ref: new for ref, new in changes.items() if force or not (ref in tags and mine.value(ref))}
        moves, diverged = ({}, False) if only_fetch else self.moves(wanted, force=force)
        changes = {ref: new for ref, new in (changes | moves).items() if mine.value(ref) != new}
        if diverged:
            with pytest.raises(DivergedError):
                pull(*arguments, **options)
            taken["pull diverged"] += 1
        else:
            report = (fetch if only_fetch else pull)(*arguments, **options)
            assert {change.ref: change.new for change in report.changes} == changes
            taken["pulled"] += bool(changes)
            taken["pull forced"] += any(change.forced for change in report.changes)
        if not dry:
            for ref, new in changes.items():
                mine.set(ref, new)
            reached |= self.reached(self.there.store, tags.values())
            self.attachments_move(self.there, self.here, reached, disks)

    def moves(self, wanted, *, force):
        """Branch -> where a pull moves it, and whether it cannot move one."""
        found, diverged = {}, False
        for ref, new in wanted.items():
            old = self.model.value(ref)
            if old is None or force or self.follows(new, old):
                found[ref] = new
            else:
                diverged |= not self.follows(old, new)
        return found, diverged

    @rule(branch=BRANCHES, name=SKILLS, contents=st.tuples(CONTENTS, CONTENTS), force=RARELY, side=SIDES)
    def work_together(self, branch, name, contents, force, side):
        """Both libraries change the same branch; one brings the two together and gives the other the result."""
        taken["together"] += 1
        for content in contents:
            self.commit(branch, name, content)
            self.switch()
        self.push(branch, False, force, False)
        self.pull(branch, False, False, False, False)
        if side is not None or force:
            self.merge_into(branch, *[self.model.value(f"remotes/origin/{branch}")] * 2, side, dry=False)
            taken["merged what was fetched"] += 1
            self.push(branch, True, True, False)

    @precondition(lambda self: self.model.named("remotes"))
    @rule(number=NUMBERS, side=SIDES)
    def merge_what_was_fetched(self, number, side):
        tracked = self.model.named("remotes")
        name = list(tracked)[number % len(tracked)]
        branch, digest = name.removeprefix("origin/"), tracked[name]
        taken["merged what was fetched"] += self.head(branch) is not None
        self.merge_into(branch, digest, digest, side, dry=False)

    @precondition(lambda self: self.model.named("heads"))
    @rule(number=NUMBERS, sure=st.integers(0, 3))
    def clone(self, number, sure):
        """Now and then: a new library with all that the one in use has takes the place of the other."""
        if sure:
            return
        taken["cloned"] += 1
        self.clones += 1
        branch = list(self.model.named("heads"))[number % len(self.model.named("heads"))]
        store = Repository.create(self.folder / f"clone-{self.clones}")
        model = LibraryModel(self.model.commits, today=self.model.today, before=self.model.before)
        source = FolderRemote(self.store.path)
        disk = on_disk(self.store)
        fetch(store, source, "origin", all_tags=True, jobs=1)
        pull(store, source, "origin", branches=[branch], jobs=1)
        for ref in ("tags/", "heads/"):
            for name, digest in self.model.named(ref[:-1]).items():
                model.set(f"tags/{name}" if ref == "tags/" else f"remotes/origin/{name}", digest)
        model.set(f"heads/{branch}", self.head(branch))
        tips = [*self.model.named("heads").values(), *self.model.named("tags").values()]
        shutil.rmtree(self.there.store.path)
        self.there = Library(store, model)
        reached = self.reached(self.store, tips)
        self.attachments_move(self.here, self.there, reached, (disk, set()))
        # A commit that a message mentions does not come along.
        assert reached <= set(store.blobs)

    @precondition(lambda self: self.there.model.named("heads"))
    @rule(number=NUMBERS, branch=BRANCHES)
    def import_from_the_other(self, number, branch):
        other = list(self.there.model.named("heads"))[number % len(self.there.model.named("heads"))]
        skills = self.there.store.skills(other)
        if not skills:
            return
        taken["imported"] += 1
        path = self.folder / "skills.tar"
        export_archive(self.there.store, skills, path)
        with self.store.writing():
            found = dict(import_archive(self.store, path))
            assert found == skills
            import_referrers(self.store, path)
            before = self.model.skills(self.head(branch)) if self.head(branch) else {}
            commit = self.store.commit(branch, lambda own: {**own, **found}, message="Import", **WHO)
        assert self.plain(commit.skills) == {**before, **self.plain(skills)}
        self.committed(f"heads/{branch}", commit)
        digests = {skill.digest for skill in skills.values()}
        self.attachments_move(self.there, self.here, digests, (digests, set()))


def make_blobs_older(store):
    """By a minute, because the clocks of file systems are coarse and nothing is to be as old as a limit."""
    for path in store.blobs.folder.iterdir():
        moment = path.lstat().st_mtime - 60
        os.utime(path, (moment, moment))
