"""Imports the authors' release: streams its archives once, joins pictures to rows, writes Parquet.

Picture bytes are those of the archive members. Whatever is missing, surplus, double or refused is
counted and listed; a row is written only when all its pictures are there and whole.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from echo4o.pictures import PictureError, PictureFacts
from echo4o.records import Input, JsonValue, RunRecord, sha256_bytes
from echo4o.schema import DATASET_NAME, SUBSETS, Picture, Row

from .background import read_ahead
from .card import CardFacts
from .folder import PREVIEW_ROWS, FolderWriter, LeftOut, Result, check_target
from .layout import Archive, Key, Kind, Record, archives, find_parts, member_key, read_records
from .pool import PicturePool
from .sources import Source, locate
from .splits import Candidate, choose_validation, ranked
from .tars import ArchiveError, read_members
from .thumbnails import check_picture

logger = logging.getLogger(__name__)


class Found(NamedTuple):
    """A picture of the release that some row wants."""

    key: Key
    place: str
    """Archive and member."""
    data: bytes
    sha256: str
    facts: PictureFacts


class Release:
    """One of the authors' datasets, read into rows; `left_out` fills while it is read."""

    def __init__(
        self,
        source: Source,
        *,
        verify: bool = False,
        progress: bool = False,
        ambiguous: frozenset[Key] = frozenset(),
        subsets: Collection[str] = SUBSETS,
    ) -> None:
        """`verify` decodes every picture; `ambiguous` names pictures known to exist twice."""
        self.source = source
        self.left_out: list[LeftOut] = []
        self.ambiguous = set(ambiguous)
        """Names under which two different pictures were found."""
        self._faults = dict.fromkeys(ambiguous, "two different pictures have this name")
        self._verify = verify
        self._progress = progress
        self._parts = [part for part in find_parts(source) if part.subset in subsets]
        seen: set[str] = set()
        self.records = [
            record
            for part in self._parts
            for record in read_records(source, part, self._report, seen)
        ]
        self._pictured = {key for one in self.records for key in (one.output, *one.references)}

    @property
    def kind(self) -> Kind:
        """Which of the authors' datasets it is."""
        return self._parts[0].kind

    def rows(self, pool: PicturePool[Key], validation: int = 0, seed: int = 0) -> Iterator[Row]:
        """Rows in the order of the archives; `pool` holds the references meanwhile."""
        self._fill(pool)
        records = self._complete(pool)
        candidates = [_candidate(one, pool) for one in records] if validation else []
        chosen = choose_validation(candidates, validation, seed)
        waiting: dict[Key, list[Record]] = defaultdict(list)
        for record in records:
            waiting[record.output].append(record)
        for found in self._pictures(set(waiting), references=False):
            for record in waiting.pop(found.key):
                row = _row(record, found, pool, self.source.facts, self.kind)
                yield replace(row, split="validation") if row.id in chosen else row
        for key, rows in waiting.items():
            for record in rows:
                self._report_picture("picture", record, key)

    def _fill(self, pool: PicturePool[Key]) -> None:
        wanted = {key for record in self.records for key in record.references}
        for found in self._pictures(wanted, references=True):
            pool.put(found.key, found.data, found.sha256)
        for key in wanted & set(self._faults):
            pool.drop(key)

    def _complete(self, pool: PicturePool[Key]) -> list[Record]:
        """Records whose references are all there; the others are reported."""
        complete = []
        for record in self.records:
            missing = next((key for key in record.references if key not in pool), None)
            if missing is None:
                complete.append(record)
            else:
                self._report_picture("reference", record, missing)
        return complete

    def _pictures(self, wanted: set[Key], *, references: bool) -> Iterator[Found]:
        """Wanted pictures of all archives that are whole, each once; a thread reads them ahead."""
        return read_ahead(self._checked_pictures(wanted, references), lambda one: len(one.data))

    def _checked_pictures(self, wanted: set[Key], references: bool) -> Iterator[Found]:
        from tqdm import tqdm

        seen: dict[Key, str] = {}
        with tqdm(
            total=len(wanted),
            desc="references" if references else "pictures",
            disable=not self._progress,
        ) as bar:
            for archive in self._archives(references):
                for key, place, data in self._members(archive, wanted, references):
                    digest = sha256_bytes(data)
                    if self._is_new(seen, key, digest, place):
                        facts = self._checked(key, data)
                        if facts is not None:
                            bar.update()
                            yield Found(key, place, data, digest, facts)

    def _archives(self, references: bool) -> list[Archive]:
        return [one for part in self._parts for one in archives(part, references=references)]

    def _members(
        self, archive: Archive, wanted: set[Key], references: bool
    ) -> Iterator[tuple[Key, str, bytes]]:
        """Wanted members; an archive that is cut off gives those before the cut."""
        name = PurePosixPath(archive.name).name
        # An archive of both is read twice, and tells of its faults the second time.
        report = _silent if references and archive.holds == "both" else self._report

        def refuse(member: str, reason: str) -> None:
            report("refused member", f"{name}:{member!r:.200}", reason)

        def is_wanted(member: str) -> bool:
            key = member_key(archive, member)
            if key is None:
                refuse(member, "lies in a folder that is not of the release")
            elif key not in wanted and (archive.holds != "both" or key not in self._pictured):
                report("surplus picture", f"{name}:{member}", key.path)
            return key in wanted

        try:
            with self.source.open(archive.name) as file:
                for member in read_members(file, name, wanted=is_wanted, refuse=refuse):
                    key = member_key(archive, member.name)
                    assert key is not None
                    yield key, f"{name}:{member.name}", member.data
        except ArchiveError as error:
            logger.warning("%s", error)
            report("damaged archive", name, str(error))

    def _is_new(self, seen: dict[Key, str], key: Key, digest: str, place: str) -> bool:
        if key in self._faults:
            return False
        if key not in seen:
            seen[key] = digest
            return True
        if seen[key] == digest:
            self._report("repeated picture", place, "same name, same bytes")
        else:
            self.ambiguous.add(key)
            self._faults[key] = "two different pictures have this name"
        return False

    def _checked(self, key: Key, data: bytes) -> PictureFacts | None:
        try:
            return check_picture(data, decode=self._verify)
        except PictureError as error:
            self._faults[key] = str(error)
            return None

    def _report(self, reason: str, where: str, detail: str) -> None:
        self.left_out.append(LeftOut(reason, where, detail))

    def _report_picture(self, kind: str, record: Record, key: Key) -> None:
        fault = self._faults.get(key)
        reason = f"missing {kind}" if fault is None else f"unusable {kind}"
        self._report(reason, record.id, key.path if fault is None else f"{key.path}: {fault}")


def _silent(reason: str, where: str, detail: str) -> None:
    pass


def import_release(
    source: str,
    out: Path,
    *,
    revision: str | None = None,
    download: bool = False,
    validation: int = 0,
    seed: int = 0,
    verify: bool = False,
    progress: bool = False,
) -> Result:
    """Turn one of the authors' datasets (a folder, or a Hub id) into the dataset folder `out`.

    A Hub id is streamed archive by archive; with `download` it is fetched into the cache first.

    Raises:
        Echo4oError: `source` is no such layout, `out` holds other files, or no row is complete.
    """
    check_target(out)
    return import_source(
        locate(source, revision, download=download),
        out,
        validation=validation,
        seed=seed,
        verify=verify,
        progress=progress,
    )


def import_source(
    source: Source,
    out: Path,
    *,
    validation: int = 0,
    seed: int = 0,
    verify: bool = False,
    progress: bool = False,
) -> Result:
    """The same, from wherever `source` reads."""
    started, clock = datetime.now(UTC), time.monotonic()
    ambiguous: frozenset[Key] = frozenset()
    while True:
        release = Release(source, verify=verify, progress=progress, ambiguous=ambiguous)
        preview = ranked([record.id for record in release.records], PREVIEW_ROWS)
        with FolderWriter(out, preview=preview) as writer, PicturePool[Key](writer.staging) as pool:
            for row in release.rows(pool, validation, seed):
                writer.add(row)
            # A second picture of the same name turned up after the first was written: start over.
            if ambiguous == (ambiguous := frozenset(release.ambiguous)):
                record = RunRecord(
                    name=DATASET_NAME,
                    command="echo4o data import",
                    inputs=(source.facts,),
                    parameters={"validation": validation, "verify": verify},
                    seed=seed,
                    started=started.isoformat(timespec="seconds"),
                    seconds=round(time.monotonic() - clock, 3),
                )
                return writer.finish(record, _card(source.facts, release.kind), release.left_out)


def _row(record: Record, found: Found, pool: PicturePool[Key], source: Input, kind: Kind) -> Row:
    hashes: list[JsonValue] = [pool.sha256(key) for key in record.references]
    return Row(
        id=record.id,
        task_type=record.task_type,
        subset=record.subset,
        category=record.category,
        instruction=record.instruction,
        input_images=tuple(
            Picture(data=pool.get(key), name=_file_name(key)) for key in record.references
        ),
        output_image=Picture(data=found.data, name=_file_name(found.key)),
        type=record.type,
        width=found.facts.width,
        height=found.facts.height,
        generator=kind.generator,
        license=kind.license,
        references=tuple(_reference(key, pool.sha256(key)) for key in record.references),
        provenance={
            "source": source.id,
            "revision": source.revision,
            "archive": found.place,
            "sha256": {"output_image": found.sha256, "input_images": hashes},
            **({"general_prompt": record.general_prompt} if record.general_prompt else {}),
        },
    )


def _file_name(key: Key) -> str:
    return key.path.rpartition("/")[2]


def _reference(key: Key, sha256: str) -> dict[str, JsonValue]:
    """What is known of a reference; the release names neither licence nor consent."""
    is_person = True if key.path.split("/")[-2:-1] == ["human"] else None
    return {
        "sha256": sha256,
        "source": key.path,
        "licence": None,
        "attribution": None,
        "depicts_person": is_person,
        "consent": None,
    }


def _candidate(record: Record, pool: PicturePool[Key]) -> Candidate:
    words = " ".join(record.instruction.lower().split())
    hashes = (f"reference {pool.sha256(key)}" for key in record.references)
    return Candidate(record.id, (f"instruction {words}", f"output {record.output}", *hashes))


def _card(source: Input, kind: Kind) -> CardFacts:
    revision = f" at `{source.revision}`" if source.revision else ""
    return CardFacts(
        title=kind.title,
        origin=f"Imported from `{source.id}`{revision}, the authors' layout of {kind.title}.",
        license=kind.license,
        tags=kind.tags,
    )
