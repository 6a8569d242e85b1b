"""What the index must show, said as simply as possible: of each document the newest content and access."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ragline.contracts.events import DocumentChanged
from ragline.index.engine import WHOLE_TENANT
from ragline.index.fingerprint import Element, Fingerprint
from ragline.index.identity import chunk_id, content_hash, embedder_input, metadata_hash

Access = tuple[str, ...] | None


def document_text(title: str, sections: str) -> str:
    """A document of which every section becomes one chunk."""
    return f"# {title}\n\n" + "\n\n".join(f"## Section {name}\n\n{section_text(name)}" for name in sections)


def section_text(name: str) -> str:
    return f"Everything that was ever decided about the matter {name} stands in this paragraph."


@dataclass(frozen=True, slots=True)
class VisibleChunk:
    """A chunk as a reader finds it."""

    document_id: str
    chunk_id: str
    text: str
    title: str
    groups: frozenset[str]
    metadata: frozenset[tuple[str, Any]]


@dataclass
class Upstream:
    """Everything that was published of one tenant; documents are written as their sections' names."""

    tenant: str
    sections: dict[tuple[str, str, int], str] = field(default_factory=dict)
    """By (document, source, revision)."""
    events: list[DocumentChanged] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"Handbook of {self.tenant}"

    def newest(self, document_id: str) -> DocumentChanged | None:
        """The content that counts: the last revision, deletions first, then the source's name."""
        changes = [e for e in self.events if e.document_id == document_id and e.op != "access"]
        return max(changes, key=lambda e: (e.revision, e.op == "delete", e.source), default=None)

    def newest_sections(self, document_id: str) -> str:
        """What stands in the document now; empty if it is not there."""
        event = self.newest(document_id)
        if event is None or event.op == "delete":
            return ""
        return self.sections[document_id, event.source, event.revision]

    def groups(self, document_id: str) -> frozenset[str]:
        """Who may read: the last access revision, and of equal ones the list that admits fewer."""
        lists: list[tuple[int, Access]] = [
            (e.revision if e.acl_revision is None else e.acl_revision, e.acl)
            for e in self.events
            if e.document_id == document_id and e.op != "delete"
        ]
        latest = max(revision for revision, _ in lists)
        tied = [acl for revision, acl in lists if revision == latest]
        named = [tuple(sorted(acl)) for acl in tied if acl is not None]
        if not named:
            return frozenset({WHOLE_TENANT})
        return frozenset(max(named, key=lambda acl: (-len(acl), acl)))

    def visible(self) -> Counter[VisibleChunk]:
        """Every chunk that a reader must find, and no other."""
        return Counter(
            VisibleChunk(
                document_id, name, section_text(section), self.title, self.groups(document_id),
                frozenset(event.metadata.items()),
            )
            for document_id, event, section, name, _ in self._chunks()
        )  # fmt: skip

    def fingerprint(self) -> Fingerprint:
        """What a clean run over the newest revisions has."""
        return Fingerprint.of(
            Element(
                self.tenant, document_id, name, content,
                metadata_hash({"title": self.title, "uri": event.uri, "metadata": event.metadata}),
            )
            for document_id, event, _, name, content in self._chunks()
        )  # fmt: skip

    def contents(self) -> set[str]:
        """Content hashes of everything that was ever published."""
        return {self._content(section) for sections in self.sections.values() for section in sections}

    def _content(self, section: str) -> str:
        return content_hash(embedder_input((self.title, f"Section {section}"), section_text(section)))

    def _chunks(self) -> list[tuple[str, DocumentChanged, str, str, str]]:
        found = []
        for document_id in sorted({event.document_id for event in self.events}):
            event, occurrences = self.newest(document_id), Counter[str]()
            for section in self.newest_sections(document_id):
                assert event is not None
                content = self._content(section)
                name = chunk_id(self.tenant, document_id, content, occurrences[section])
                found.append((document_id, event, section, name, content))
                occurrences[section] += 1
        return found
