"""A library of skills in memory, as plainly as it can be said: what the state machine compares a store with."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelCommit:
    """Skills are name -> content; parents are digests, the first one is what it was made on."""

    skills: dict[str, str]
    parents: tuple[str, ...]


@dataclass
class LibraryModel:
    """What a library has.

    Attributes:
        commits: Every commit ever made; libraries that share history share this.
        refs: Ref (``heads/…``, ``tags/…``, ``remotes/…``) -> everything that its log has, oldest first.
        days: Ref -> when it came to name each of these, in days.
        first: Ref -> the number of the oldest of these.
        attached: Digest of a skill -> digests of what is attached to it.
        today: The day that it is.
        before: Digest of a commit -> it and everything before it.
    """

    commits: dict[str, ModelCommit] = field(default_factory=dict)
    refs: dict[str, list[str | None]] = field(default_factory=dict)
    days: dict[str, list[int]] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    attached: dict[str, set[str]] = field(default_factory=dict)
    today: int = 0
    before: dict[str, frozenset[str]] = field(default_factory=dict)

    def named(self, kind: str) -> dict[str, str]:
        """The refs of a kind that are not deleted."""
        found = {ref.partition("/")[2]: log[-1] for ref, log in self.refs.items() if ref.startswith(f"{kind}/")}
        return {name: digest for name, digest in sorted(found.items()) if digest is not None}

    def set(self, ref: str, digest: str | None) -> None:
        log = self.refs.setdefault(ref, [])
        if not log or log[-1] != digest:
            log.append(digest)
            self.days.setdefault(ref, []).append(self.today)
            self.first.setdefault(ref, 1)

    def value(self, ref: str) -> str | None:
        return self.refs.get(ref, [None])[-1]

    def last(self, ref: str) -> str | None:
        """What a ref names or named last, as far as its log says."""
        return next((digest for digest in reversed(self.refs.get(ref, [])) if digest is not None), None)

    def deleted_refs(self) -> dict[str, str]:
        """Branches and tags that can be brought back, and to what."""
        gone = (ref for ref, log in self.refs.items() if log[-1] is None and not ref.startswith("remotes/"))
        return {ref: last for ref in gone if (last := self.last(ref)) is not None}

    def expired(self, ref: str, expiry: float) -> int:
        """How many entries of a log are to be pruned: those whose successors are older than so many days."""
        ages = [self.today - day for day in self.days[ref]]
        return next((place for place, age in enumerate(ages[1:]) if age <= expiry), len(ages) - 1)

    def unexpired(self, expiry: float) -> set[str]:
        """Everything that a log names, without what is to be pruned."""
        found = (digest for ref, log in self.refs.items() for digest in log[self.expired(ref, expiry) :])
        return {digest for digest in found if digest is not None}

    def prune(self, expiry: float) -> int:
        """Prune the logs, as a collection does; returns how many entries that were."""
        numbers = {ref: self.expired(ref, expiry) for ref in self.refs}
        for ref, number in numbers.items():
            self.refs[ref], self.days[ref] = self.refs[ref][number:], self.days[ref][number:]
            self.first[ref] += number
        return sum(numbers.values())

    def skills(self, digest: str) -> dict[str, str]:
        return self.commits[digest].skills

    def line(self, digest: str) -> list[str]:
        """First parents, newest first."""
        found = [digest]
        while self.commits[found[-1]].parents:
            found.append(self.commits[found[-1]].parents[0])
        return found

    def ancestors(self, digest: str) -> frozenset[str]:
        """A commit and everything before it."""
        if digest not in self.before:
            parents = self.commits[digest].parents
            self.before[digest] = frozenset({digest}).union(*map(self.ancestors, parents))
        return self.before[digest]

    def versions(self, digest: str, name: str) -> list[str]:
        """Distinct contents that had a name, oldest first."""
        contents = [self.skills(commit).get(name) for commit in reversed(self.line(digest))]
        return list(dict.fromkeys(content for content in contents if content is not None))

    def bases(self, ours: str, theirs: str) -> set[str]:
        """The best common ancestors."""
        common = self.ancestors(ours) & self.ancestors(theirs)
        return {one for one in common if not any(one in self.ancestors(other) for other in common - {one})}

    def merged(self, ours: str, theirs: str, side: str | None) -> tuple[dict[str, str], set[str]]:
        """The skills after a merge, and the names in conflict."""
        bases = [self.skills(base) for base in self.bases(ours, theirs)] or [{}]
        mine, other = self.skills(ours), self.skills(theirs)
        result, conflicts = {}, set()
        for name in sorted(mine.keys() | other.keys()):
            before = {base.get(name) for base in bases}
            content = mine.get(name)
            if content != other.get(name):
                if before == {content}:
                    content = other.get(name)
                elif before != {other.get(name)}:
                    conflicts.add(name)
                    content = other.get(name) if side == "theirs" else content
            if content is not None:
                result[name] = content
        return result, conflicts

    def reverted(self, head: str, commit: str) -> tuple[dict[str, str], set[str]]:
        """The skills of a head with a commit undone, and the names in conflict."""
        parents = self.commits[commit].parents
        before = self.skills(parents[0]) if parents else {}
        after, result, conflicts = self.skills(commit), dict(self.skills(head)), set()
        for name in before.keys() | after.keys():
            if before.get(name) == after.get(name) or result.get(name) == before.get(name):
                continue
            if result.get(name) != after.get(name):
                conflicts.add(name)
            elif name in before:
                result[name] = before[name]
            else:
                del result[name]
        return result, conflicts

    def deleted(self, head: str) -> dict[str, str]:
        """Skills that a branch had and has no more, as they were last."""
        found: dict[str, str] = {}
        for commit in self.line(head):
            for name, content in self.skills(commit).items():
                found.setdefault(name, content)
        return {name: content for name, content in found.items() if name not in self.skills(head)}
