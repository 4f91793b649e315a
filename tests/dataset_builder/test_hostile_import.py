"""Tars and record files made to harm: what is sound is read, and each fault is one sentence."""

import gzip
import io
import tarfile
import time
import tracemalloc
import zlib

import authors_layout as layout
import pytest

from echo4o.dataset_builder import import_release
from echo4o.dataset_builder.layout import MAX_FAULTS, read_objects
from echo4o.dataset_builder.tars import MAX_MEMBER_BYTES, ArchiveError, read_members

END = bytes(1024)
GIANT = 10**15


def entry(name, data=b"good", *, kind=tarfile.REGTYPE, claims=None, pax=b"", patch=None):
    """One member as its bytes: it `claims` a size, and `patch` puts bytes at places of its header.

    `pax` is what stands in a pax header in front of it.
    """
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data) if claims is None else claims
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    for place, value in (patch or {}).items():
        header[place : place + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    before = entry("pax", pax, kind=tarfile.XHDTYPE) if pax else b""
    return before + bytes(header) + data + bytes(-len(data) % 512)


def pax(**values):
    """Records of a pax header; each says how long it is itself."""
    records = b""
    for name, value in values.items():
        rest = f" {name.replace('__', '.')}={value}\n".encode("utf-8", "surrogateescape")
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        records += str(length).encode() + rest
    return records


def longname(name, claims=None):
    return entry(
        "././@LongLink", name.encode() + b"\0", kind=tarfile.GNUTYPE_LONGNAME, claims=claims
    )


def opened(data):
    """Members by name, reasons of refusals by name, and the sentence it ended with."""
    refused, members, said = {}, {}, ""
    file = data if hasattr(data, "read") else io.BytesIO(data)
    try:
        for member in read_members(
            file, "a.tar", wanted=lambda name: True, refuse=refused.__setitem__
        ):
            members[member.name] = member.data
    except ArchiveError as error:
        said = str(error)
        assert said.startswith("a.tar is cut off or damaged (")
        assert len(said) < 300
        assert said.isprintable()
    return members, refused, said


GOOD = entry("good.jpg")
SPARSE_MAP = {482: b"\x01", 386: b"%011o\0" % 0, 398: b"%011o\0" % 4}


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (entry("a", kind=tarfile.CHRTYPE, claims=9_999, data=b""), "device"),
        (entry("a", kind=tarfile.BLKTYPE, claims=GIANT, data=b""), "device"),
        (entry("a", kind=tarfile.SYMTYPE, claims=512, data=b""), "link"),
        (entry("a", bytes(512) + b"good", kind=b"S", claims=4, patch=SPARSE_MAP), "sparse"),
        (entry("a", pax=pax(GNU__sparse__major=1, GNU__sparse__size=GIANT)), "sparse"),
        (entry("a", b"12345", kind=b"V"), "link"),
        (entry("a", bytes(MAX_MEMBER_BYTES + 1)), "has 16000001 bytes"),
        (entry("a", pax=pax(path="../../a")), "`..`"),
        (entry("a", pax=pax(path="/etc/passwd")), "absolute"),
        (entry("a", pax=pax(path="a\0b")), "control"),
        (entry("a", pax=pax(path="a\udcff\x1b[2J")), "control"),
        (entry("a", pax=pax(path="x" * 10_000)), "endless"),
        (longname("x" * 10_000) + entry("a"), "endless"),
        (longname("../" * 9 + "a") + entry("a"), "`..`"),
        (entry("a\x07b"), "control"),
        (entry("."), "empty"),
        (entry("C:\\a"), "absolute"),
    ],
)
def test_a_harmful_member_is_refused_and_those_around_it_are_read(harm, reason):
    data = GOOD + harm + entry("last.jpg") + END
    members, refused, said = opened(data)
    assert list(members.values()) == [b"good", b"good"]
    assert [reason in why for why in refused.values()] == [True]
    assert not said
    assert opened(gzip.compress(data, 1)) == (members, refused, said)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (longname("a", claims=2 * 10**9), "a header claims 2000000000 bytes"),
        (entry("p", b"", kind=tarfile.XHDTYPE, claims=GIANT), f"a header claims {GIANT} bytes"),
        (entry("a", pax=pax(size="9" * 5_000)), "a pax header claims"),
        (entry("a", pax=pax(size=-5)), "a pax header claims"),
        (entry("a", pax=b"999999 path=a\n"), "a pax header is damaged"),
        (entry("a", pax=b"0 path=a\n"), "a pax header is damaged"),
        (entry("a", pax=pax(size=GIANT)), "ends before its end marker"),
        (entry("a", claims=10**6), "ends before its end marker"),
        (entry("a", patch={124: b"\xff" * 12}), "claims -1 bytes"),
        (entry("a", patch={124: b"77777777x77\0"}), "invalid header"),
        (entry("a", claims=2, data=b"longer than it says" * 40), "invalid header"),
        (entry("a")[:700], "ends before its end marker"),
        (entry("a")[:300], "ends before its end marker"),
        (entry("a"), "ends before its end marker"),
        (END + GOOD + END, "something follows its end marker"),
        (END + b"garbage", "something follows its end marker"),
        (END + bytes(1_100_000), "something follows its end marker"),
        (longname("a") * 3 + END + b"x", "something follows its end marker"),
    ],
)
def test_a_harmful_end_is_one_sentence_and_what_came_before_is_read(harm, said):
    for data in (GOOD + harm, gzip.compress(GOOD + harm, 1)):
        members, _, sentence = opened(data)
        assert members["good.jpg"] == b"good"
        assert said in sentence


class Endless:
    """A gzip of a tar whose headers never end, made while it is read."""

    def __init__(self, piece, most):
        packer = zlib.compressobj(9, wbits=31)
        self._first = packer.compress(GOOD) + packer.flush(zlib.Z_FULL_FLUSH)
        self._again = packer.compress(piece) + packer.flush(zlib.Z_FULL_FLUSH)
        self._most, self.asked = most, 0

    def read(self, size):
        self.asked += 1
        data, self._first = self._first or self._again, b""
        return data if self.asked < self._most else b""


@pytest.mark.parametrize(
    ("piece", "said"),
    [
        (longname("x" * 900_000), "inflates to over 100 times its size"),
        (entry("zeros", bytes(MAX_MEMBER_BYTES + 1)), "inflates to over 100 times its size"),
    ],
)
def test_a_bomb_ends_soon_in_little_memory(piece, said):
    file = Endless(piece, 10_000)
    tracemalloc.start()
    members, _, sentence = opened(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert members["good.jpg"] == b"good"
    assert said in sentence
    assert file.asked < 600
    assert peak < 8_000_000


def test_headers_without_end_are_counted(monkeypatch):
    monkeypatch.setattr("echo4o.dataset_builder.tars.MAX_HEADERS", 50)
    members, _, said = opened(GOOD + entry("a") * 49 + END)
    assert "more than 50 headers" in said
    assert len(members) == 2


def test_gzip_damage_and_leftovers():
    whole = gzip.compress(GOOD + entry("b", layout.picture(1) * 999) + END)
    assert opened(whole + bytes(5_000)) == opened(whole)
    assert opened(gzip.compress(GOOD) + gzip.compress(END)) == ({"good.jpg": b"good"}, {}, "")
    for broken in (
        whole[:-6],
        whole[:-8] + b"\0" * 8,
        whole + b"garbage",
        whole[: len(whole) // 2],
    ):
        members, _, said = opened(broken)
        assert members["good.jpg"] == b"good"
        assert said
    assert opened(b"")[2]
    assert opened(b"\x1f\x8b")[2]
    assert "invalid header" in opened(b"<html>not a tar</html>" * 99)[2]


@pytest.mark.parametrize(
    ("text", "objects", "faults"),
    [
        ('{"a" x' + "\n" * 100_000 + '{"b":1}', 1, 1),
        ('{"a":' * 100_000, 0, 1),
        ('\n{"a"]' * 50_000 + '\n{"b":1}', 0, MAX_FAULTS + 1),
        ('{"a":1}{"b" 2}, {"c":3} x {"d":4}\n{"e":5', 2, 3),
    ],
)
def test_a_harmful_record_file_takes_no_longer_than_it_is(text, objects, faults):
    told, start = [], time.process_time()
    found = list(read_objects(text, lambda *words: told.append(words), "a.jsonl"))
    assert time.process_time() - start < 2
    assert (len(found), len(told)) == (objects, faults)


def test_an_import_of_all_of_it_stays_in_its_folder(tmp_path):
    folder = layout.write_t2i(tmp_path / "deep/release", rows=4)
    pictures = [layout.picture(number) for number in range(4)]
    parts = [
        entry("images/00000.jpg", pictures[0]),
        entry("x", pictures[1], pax=pax(path="../../../../escaped.jpg")),
        entry("images/00001.jpg", b"", kind=tarfile.SYMTYPE, patch={157: b"/etc/passwd"}),
        entry("images/00001.jpg", pictures[1]),
        entry("images/00002.jpg", b""),
        entry("images/00003.jpg", claims=10**6),
    ]
    (folder / "images/0-5000.tar.gz").write_bytes(gzip.compress(b"".join(parts)))
    (folder / "images/\x1b[2J.tar").write_bytes(b"")
    before = set(tmp_path.rglob("*"))
    result = import_release(str(tmp_path / "deep/release"), tmp_path / "out")
    assert result.tally.rows == 2
    assert result.record.metrics["left_out"] == {
        "damaged archive": 1,
        "missing picture": 1,
        "refused member": 2,
        "unusable picture": 1,
    }
    new = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "out") for path in new)
