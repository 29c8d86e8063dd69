"""Removes results that no page shows.

    python docs/studies/prune_results.py [--docs docs]

A benchmark's ``metrics.csv`` has a row for each method, metric and subset of the pairs. Run this after
results were made anew and copied to ``docs/results``. Of each CSV file it keeps the rows that a
``{results-table}`` directive shows: those of the subset that a metric is meant for, of the metrics that the
directive names or of all if it names none. Of a JSON file of ``speed.py`` it keeps the sections that a
``{speed-table}`` names. Files that no page names are listed and left as they are."""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
from pathlib import Path

from captum_face._files import write_whole

Parts = dict[Path, set[str] | None]


def shown(docs: Path) -> Parts:
    """What the pages show of each file that they name: metrics or sections, or None for all of it."""
    parts: Parts = {}
    directive = re.compile(r"^```\{(results-table|speed-table|literalinclude)\} (\S+)(.*)$", re.MULTILINE)
    for page in sorted(docs.rglob("*.md")):
        for _, name, rest in directive.findall(page.read_text("utf-8")):
            path = (docs / name[1:] if name[0] == "/" else page.parent / name).resolve()
            known, named = parts.setdefault(path, set()), rest.split()
            parts[path] = known | set(named) if named and known is not None else None
    return parts


def pruned_csv(text: str, metrics: set[str] | None) -> str:
    """The rows of the subset that each metric is meant for; of some metrics, or of all (None)."""
    head, *rows = list(csv.reader(io.StringIO(text)))
    subset, meant_for, metric = (head.index(name) for name in ("subset", "meant_for", "metric"))
    kept = [
        row for row in rows if row[subset] == row[meant_for] and (metrics is None or row[metric] in metrics)
    ]
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows([head, *kept])
    return written.getvalue()


def pruned_json(text: str, sections: set[str] | None) -> str:
    """The sections that are named, or all (None)."""
    known = json.loads(text)
    kept = {name: section for name, section in known.items() if sections is None or name in sections}
    return json.dumps(kept, indent=1, allow_nan=False) + "\n"


def pruned(path: Path, text: str, parts: Parts) -> str:
    """What pages show of a file's text; all of it where no page names the file."""
    prunings = {".csv": pruned_csv, ".json": pruned_json}
    if path.resolve() not in parts or path.suffix not in prunings:
        return text
    return prunings[path.suffix](text, parts[path.resolve()])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--docs", type=Path, default=Path(__file__).resolve().parents[1])
    docs = parser.parse_args().docs
    parts = shown(docs)
    for path in sorted((docs / "results").iterdir()):
        before = path.read_text("utf-8")
        after = pruned(path, before, parts)
        if after != before:
            write_whole(path, lambda new, text=after: new.write_text(text, "utf-8"))
        unnamed = "" if path.resolve() in parts else "  named by no page"
        print(f"{path.name:24}{before.count(chr(10)):6} lines, kept{after.count(chr(10)):6}{unnamed}")


if __name__ == "__main__":
    main()
