"""A RELEASE.toml whose answers are all there, for tests that publish."""

from pathlib import Path

ANSWERS = {
    "generator": "sandbox-image",
    "terms": "https://example.org/terms",
    "terms_read": "2026-11-02",
    "account": "business",
    "may_train_competing_model": "unclear",
    "signed_off": "A. Person",
    "take_down": "removal@example.org",
}
LICENCES = {"outputs": "MIT", "instructions": "MIT", "references": "MIT", "items": "none"}
REGISTER = '[[rights.references]]\nmatch = "*"\nlicence = "MIT"\nconsent = "release in our files"\n'


def release_text(answers=ANSWERS, licences=LICENCES, register=REGISTER):
    """The file; what is None in `answers` or `licences` is left out."""

    def lines(table):
        return "".join(f'{name} = "{text}"\n' for name, text in table.items() if text is not None)

    return f"[rights]\n{lines(answers)}[rights.licences]\n{lines(licences)}{register}"


def write_release(folder: Path, **changed) -> Path:
    """Write it into a folder."""
    path = folder / "RELEASE.toml"
    path.write_text(release_text(**changed))
    return path
