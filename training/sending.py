"""Writes a folder's card and sends it to the Hub, beside the training: FOLDER REPO MESSAGE.

It imports nothing heavy: a training that waits for it at its end should not wait for imports.
"""

import sys
from pathlib import Path

from echo4o import cli, hub


def main() -> None:
    """Publish, or end with a sentence that says what went wrong."""
    folder, repo, message = sys.argv[1:]
    cli.main(["card", "render", "model", folder, "--repo", repo])
    try:
        hub.publish_folder(Path(folder), repo, repo_type="model", message=message)
    except Exception as error:
        sys.exit(cli.explain(error) or f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
