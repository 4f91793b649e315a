"""The `echo4o <noun> <verb>` command line: a table of strings, imported only when a verb runs.

For a verb function `plan` in the named module there is also `plan_arguments(parser)`.
"""

import argparse
import difflib
import errno
import importlib
import logging
import os
import shutil
import signal
import sqlite3
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NoReturn

from .ending import ending, reader_is_gone
from .errors import Echo4oError, shown_address

NOUNS = {
    "data": "plan, generate, build and publish a dataset",
    "model": "generate pictures, ask about pictures, inspect and publish a model",
    "train": "fine-tune a model",
    "eval": "run and judge a benchmark, write its report",
    "card": "render and check cards",
    "space": "run and publish the demo",
    "release": "rehearse and publish a whole release",
    "sandbox": "local stand-ins for the image API and the Hub",
    "doctor": "versions, disk, tokens and ports",
}

VERBS: dict[str, dict[str, tuple[str, str]]] = {
    "data": {
        "plan": ("echo4o.dataset_builder.cli:plan", "write the rows to be made"),
        "generate": ("echo4o.dataset_builder.generate_cli:generate", "buy the planned pictures"),
        "check": ("echo4o.dataset_builder.quality_cli:check", "judge the pictures, mend the texts"),
        "build": ("echo4o.dataset_builder.cli:build", "turn a finished plan into Parquet"),
        "import": ("echo4o.dataset_builder.cli:import_", "read the authors' published layout"),
        "card": ("echo4o.dataset_builder.cli:card", "print the card that the records give"),
        "export": ("echo4o.dataset_builder.cli:export", "write it as a trainer reads it"),
        "remove": ("echo4o.dataset_builder.quality_cli:remove", "take rows out: the next version"),
        "push": ("echo4o.dataset_builder.cli:push", "publish a built dataset in one step"),
        "stats": ("echo4o.dataset_builder.quality_cli:stats", "what a dataset holds, as JSON"),
        "show": ("echo4o.dataset_builder.quality_cli:show", "look at rows and numbers"),
    },
    "model": {
        "generate": ("echo4o.models.cli:generate", "make pictures from a prompt"),
        "ask": ("echo4o.models.cli:ask", "ask a question about a picture"),
        "info": ("echo4o.models.files_cli:info", "sizes, dtypes and what is missing"),
        "convert": ("echo4o.models.files_cli:convert", "between the authors' layout and ours"),
        "merge": ("echo4o.models.files_cli:merge", "put adapters or missing tensors into a model"),
        "push": ("echo4o.models.files_cli:push", "publish a model folder in one step"),
    },
    "train": {
        "run": ("echo4o.training.cli:run", "train a recipe"),
        "cache": ("echo4o.training.cli:cache", "encode a recipe's pictures once, for all runs"),
        "plan": ("echo4o.training.cli:plan", "what a recipe will need"),
    },
    "eval": {
        "fetch": ("echo4o.eval.cli:fetch", "get the authors' items and judge wording"),
        "run": ("echo4o.eval.run_cli:run", "generate, judge and score a task"),
        "judge": ("echo4o.eval.judge_cli:judge", "judge pictures that exist"),
        "report": ("echo4o.eval.cli:report", "write an HTML report of one or more runs"),
        "rescore": ("echo4o.eval.cli:rescore", "work scores out again from stored verdicts"),
        "annotate": ("echo4o.eval.annotate_cli:annotate", "let people judge the pictures"),
        "push": ("echo4o.eval.push_cli:push", "publish items, metrics or results"),
        "submit": ("echo4o.eval.push_cli:submit", "bring scores into a model's repo"),
        "again": ("echo4o.eval.push_cli:again", "judge stored pictures with a metric of the Hub"),
        "job": ("echo4o.eval.job_cli:job", "run and submit an evaluation on HF Jobs"),
        "watch": ("echo4o.eval.job_cli:watch", "start such a job for every new revision"),
        "calibrate": (
            "echo4o.eval.judge_cli:calibrate",
            "map a new judge's scores to an old one's",
        ),
        "compare": ("echo4o.eval.judge_cli:compare", "which run is better, and do judges agree"),
        "import": ("echo4o.eval.more_cli:import_", "score answers that were given elsewhere"),
        "detector-agreement": (
            "echo4o.eval.more_cli:detector_agreement",
            "do two detectors say the same about the same pictures",
        ),
    },
    "card": {
        "render": ("echo4o.model_cards.cli:render", "write a card from records"),
        "check": ("echo4o.model_cards.cli:check", "find placeholders and unknown claims"),
    },
    "space": {
        "run": ("echo4o.space_cli:run", "start a Space on this machine"),
        "push": ("echo4o.space_cli:push", "publish a Space"),
    },
    "release": {
        "rehearse": ("echo4o.release.cli:rehearse", "the whole line on the sandbox"),
        "compare": ("echo4o.release.cli:compare", "two models on the same benchmarks"),
        "publish": ("echo4o.release.cli:publish", "publish a whole release, repo by repo"),
        "verify": ("echo4o.release.cli:verify", "check a published release as a stranger would"),
    },
    "sandbox": {
        "serve": ("echo4o.sandbox.cli:serve", "start the sandbox servers"),
        "paint": ("echo4o.sandbox.cli:paint", "paint random scenes into a folder"),
    },
    "doctor": {
        "": ("echo4o.doctor:doctor", "check this machine"),
    },
}

# Raised far below us by the libraries; named by class so that none of them is imported here.
_LIBRARY_ERRORS = {
    "APIConnectionError": "the image or judge API cannot be reached",
    "AuthenticationError": "the API refused the key",
    "ArrowInvalid": "a data file is damaged or cut off",
    "ConnectError": "the server cannot be reached",
    "ConnectionError": "the server cannot be reached",
    "DatasetGenerationError": "the dataset cannot be read",
    "DatasetNotFoundError": "the dataset was not found",
    "DecompressionBombError": "a picture is too large",
    "GatedRepoError": "the repository is gated",
    "HFValidationError": "this is no Hub id (ORG/NAME) and no folder",
    "HfHubHTTPError": "the Hub refused the request",
    "JSONDecodeError": "a file or an answer is not JSON",
    "LocalEntryNotFoundError": "the file is not in the cache and the Hub cannot be reached",
    "MemoryError": "the memory is full; use smaller batches or fewer calls at a time",
    "OfflineModeIsEnabled": "offline mode is on",
    "OutOfMemoryError": "the memory of the device is full; use smaller batches",
    "RemoteProtocolError": "the server cut the connection; run the same command again",
    "RepositoryNotFoundError": "the repository was not found, or the token may not see it",
    "RevisionNotFoundError": "the revision was not found",
    "SafetensorError": "a weights file is damaged or cut off",
    "TimeoutException": "the server did not answer in time",
    "TransportError": "the connection to the server broke; run the same command again",
    "UnicodeDecodeError": "a file is not UTF-8 text",
    "UnidentifiedImageError": "a file is no picture",
}
# What the system says, and what to do about it.
_OS_ERRORS = {
    errno.ENOSPC: ("the disk is full", "free some space and run the same command again"),
    errno.EADDRINUSE: ("the port is in use", "choose another one, or 0 for any free port"),
    errno.ENOENT: ("no such file or folder", "check the name, and the folder you are in"),
    errno.EACCES: ("Permission denied", "choose another place, or change its permissions"),
    errno.EPERM: ("Operation not permitted", "choose another place, or change its permissions"),
    errno.EROFS: ("the disk is read-only", "choose another place"),
    errno.ENOTDIR: ("a file stands where a folder is needed", "give another folder"),
    errno.EEXIST: ("there is something of this name", "give another name"),
    errno.EISDIR: ("this is a folder", "give the file"),
}
_DISK_FULL = "the disk is full; free some space and run the same command again"
# What SQLite says about the disk and the file; everything else it says is our own fault.
_SQLITE_ERRORS = {
    "database or disk is full": _DISK_FULL,
    "disk i/o error": "the disk cannot be read or written",
    "database is locked": "another run has the database; wait for it and run the command again",
    "unable to open database file": "the database file cannot be opened",
    "attempt to write a readonly database": "the database file may not be written",
    "file is not a database": "a database file is damaged",
    "database disk image is malformed": "a database file is damaged",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `echo4o` command; exits with 0, 1 (failed), 2 (misuse) or 130 (Ctrl-C).

    With 141 where nobody reads any more what it prints, as any other program.
    """
    if argv is not None:
        _run(list(argv))
        return
    with ending():
        _run(sys.argv[1:])


def _run(words: list[str]) -> None:
    # Commands that start several processes hand it on through the environment.
    debug_asked = "--debug" in words
    debug = debug_asked or bool(os.environ.get("ECHO4O_DEBUG"))
    if debug_asked:
        words.remove("--debug")
        os.environ["ECHO4O_DEBUG"] = "1"
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "httpx2", "httpcore", "openai", "filelock", "datasets", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for talking in ("huggingface_hub", "datasets"):
        # They print what they log themselves; through the root it would stand there twice.
        logging.getLogger(talking).propagate = False
    logging.getLogger("huggingface_hub.utils._http").addFilter(_unsigned)
    try:
        try:
            _dispatch(words)
        finally:
            sys.stdout.flush()  # here, where it can be told that nobody reads it
    except BrokenPipeError as error:
        if not reader_is_gone():
            _fail(f"the server cut the connection: {_first_line(error)}", 1)
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        _fail("interrupted; run the same command again to go on", 130)
    except Exception as error:
        if debug:
            raise
        sentence = explain(error)
        if sentence is None:
            raise
        _fail(sentence, 1)
    finally:
        if debug_asked:
            os.environ.pop("ECHO4O_DEBUG", None)


def _unsigned(record: logging.LogRecord) -> bool:
    """Take signatures out of the addresses that the Hub's client logs when a request fails."""
    record.msg = shown_address(record.msg)
    return True


def explain(error: BaseException) -> str | None:
    """One sentence for an error that a user can act on, None for one that is our own fault."""
    if isinstance(error, Echo4oError) or (isinstance(error, ValueError) and _is_ours(error)):
        return str(error) or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return f'{error}; install what this command needs: pip install "echo4o[all]"'
    if isinstance(error, sqlite3.Error):
        return _explain_sqlite(error)
    names = [cls.__name__ for cls in type(error).__mro__]
    if "DatasetGenerationError" in names and error.__cause__ is not None:
        # `datasets` wraps whatever happened, a full disk as well as a bug of ours.
        return explain(error.__cause__)
    for name in names:
        if name in _LIBRARY_ERRORS:
            # Safetensors and Arrow have one class for a full disk and for a damaged file.
            full = "No space left on device" in str(error)
            return _DISK_FULL if full else f"{_LIBRARY_ERRORS[name]}: {_first_line(error)}"
    if isinstance(error, OSError):
        return _explain_os(error)
    return None


def _is_ours(error: BaseException) -> bool:
    """Whether our own code raised it: a refused argument, not a bug that a library stumbled on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module == "echo4o" or module.startswith("echo4o.")


def _explain_sqlite(error: sqlite3.Error) -> str | None:
    said = str(error).lower()
    known = (sentence for words, sentence in _SQLITE_ERRORS.items() if words in said)
    sentence = next(known, None)
    return sentence and f"{sentence} (SQLite: {_first_line(error)})"


def _explain_os(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in _OS_ERRORS:
        fact, remedy = _OS_ERRORS[error.errno]
        return f"{fact}{where}; {remedy}"
    return f"{error.strerror or error}{where}"


def _first_line(error: BaseException) -> str:
    lines = (line for line in str(error).splitlines() if line.strip())
    return shown_address(next(lines, type(error).__name__))


def _fail(sentence: str, status: int) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(status)


def _dispatch(words: list[str]) -> None:
    if words[:1] == ["--version"]:
        from . import __version__

        print(f"echo4o {__version__}")
        return
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return
    noun, rest = words[0], words[1:]
    if noun not in VERBS:
        _fail(f"unknown command {noun!r}{_nearest(noun, VERBS)}; there are: {', '.join(VERBS)}", 2)
    verbs = VERBS[noun]
    verb = "" if "" in verbs else (rest[0] if rest else "--help")
    if verb in ("-h", "--help"):
        print(_noun_help(noun))
        return
    if verb not in verbs:
        told = f"unknown verb {verb!r}{_nearest(verb, verbs)}"
        _fail(f"{told}; `echo4o {noun}` has: {', '.join(verbs)}", 2)
    run_verb(noun, verb, rest if verb == "" else rest[1:])


def run_verb(noun: str, verb: str, words: list[str]) -> None:
    """Run one verb in this process; its errors come out as they are, misuse as SystemExit."""
    target, summary = VERBS[noun][verb]
    module_name, function = target.split(":")
    module = importlib.import_module(module_name)
    parser = _Parser(
        prog=f"echo4o {noun} {verb}".rstrip(),
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="--debug shows the traceback of an error.",
        formatter_class=_Help,
    )
    getattr(module, f"{function}_arguments")(parser)
    args = parser.parse_args(words)
    args.words = words  # as they were typed, for a verb that starts itself several times
    getattr(module, function)(args)


class _Parser(argparse.ArgumentParser):
    """Misuse is one sentence, as every other error."""

    def error(self, message: str) -> NoReturn:
        words = message.split()
        strange = words[2] if words[:2] == ["unrecognized", "arguments:"] else ""
        near = _nearest(strange.partition("=")[0], self._option_string_actions) if strange else ""
        _fail(f"{message}{near}; `{self.prog} --help` shows what it takes", 2)


def _nearest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells a default where there is one to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        is_told = action.default is None or action.default is False or action.default in ("", [])
        return action.help if is_told else super()._get_help_string(action)


def _overview() -> str:
    lines = ["usage: echo4o <noun> <verb> [options]", ""]
    for noun, summary in NOUNS.items():
        verbs = ", ".join(verb for verb in VERBS[noun] if verb)
        lines += _rows(noun, 9, f"{summary}{f' ({verbs})' if verbs else ''}")
    return "\n".join([*lines, "", *_MORE])


_MORE = (
    "echo4o <noun> --help lists its verbs, echo4o <noun> <verb> --help the options of one.",
    "--version; --debug shows the traceback behind an error.",
    "All of it at work, without an account: echo4o release rehearse --quick",
)


def _rows(name: str, width: int, text: str) -> list[str]:
    """A name and its explanation, side by side in the width of the terminal."""
    room = max(40, shutil.get_terminal_size().columns)
    return textwrap.wrap(
        text,
        room,
        initial_indent=f"  {name:<{width}}",
        subsequent_indent=" " * (width + 2),
        break_on_hyphens=False,
    )


def _noun_help(noun: str) -> str:
    lines = [f"usage: echo4o {noun} <verb> [options]", "", f"{NOUNS[noun]}:"]
    width = max(map(len, VERBS[noun])) + 2
    for verb, (_, summary) in VERBS[noun].items():
        lines += _rows(verb, width, summary)
    return "\n".join([*lines, "", f"echo4o {noun} <verb> --help shows a verb's options."])


if __name__ == "__main__":
    main()
