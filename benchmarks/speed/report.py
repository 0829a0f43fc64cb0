"""Results as tables."""

from __future__ import annotations

from statistics import median

from .driver import Key, Results


def show(group: str, results: Results) -> None:
    """Print the table of a group: medians, and the least and the most of each figure."""
    keys = [key for key in (*results.figures, *results.failures) if key.group == group]
    columns = [*dict.fromkeys(key.column for key in keys)]
    print(f"\n{group:44}" + "".join(f"{column:>24}" for column in columns))
    for case in dict.fromkeys(key.case for key in keys):
        subjects = [*dict.fromkeys(key.subject for key in keys if key.case == case)]
        for subject in subjects:
            cells = [_cell(results, Key(group, case, subject, column)) for column in columns]
            print(f"  {case if subject == subjects[0] else '':20}{subject:22}" + "".join(cells), flush=True)
    for key, error in results.failures.items():
        if key.group == group:
            print(f"  FAILED {key.case}, {key.subject}, {key.column}: {error}")


def _cell(results: Results, key: Key) -> str:
    if key in results.failures:
        return f"{'failed':>24}"
    values = results.figures.get(key)
    if not values:
        return " " * 24
    return f"{median(values):10.1f} ({min(values):.1f}-{max(values):.1f})".rjust(24)
