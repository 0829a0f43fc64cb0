"""Prints the results as tables: medians, minimum and maximum in brackets, and ratios."""

from __future__ import annotations

from statistics import median

from .driver import Key, Results
from .groups import GROUPS
from .targets import ratio, targets

_GAP = "   "


def show(group: str, runs: list[Results]) -> None:
    """Print a group's tables: cases with the same columns share one."""
    keys = list(dict.fromkeys(key for run in runs for key in (*run.figures, *run.failures) if key.group == group))
    print(f"\n{group}: {(GROUPS[group].__doc__ or '').partition('.')[0]}.")
    tables: dict[tuple[str, ...], list[str]] = {}
    for case in dict.fromkeys(key.case for key in keys):
        columns = tuple(dict.fromkeys(key.column for key in keys if key.case == case))
        tables.setdefault(columns, []).append(case)
    for columns, cases in tables.items():
        rows = [["", "", *columns]]
        for case in cases:
            subjects = list(dict.fromkeys(key.subject for key in keys if key.case == case))
            for subject in subjects:
                cells = [_cell(runs, Key(group, case, subject, column)) for column in columns]
                rows.append([case if subject == subjects[0] else "", subject, *cells])
        _print(rows)
    failures = {key[1:3]: error for run in runs for key, error in run.failures.items() if key.group == group}
    for (case, subject), error in failures.items():
        print(f"  failed: {subject}, {case}: {error}")


def show_targets(runs: list[Results]) -> None:
    """Print the targets that have been measured."""
    rows = [["targets", "limit", "measured", ""]]
    for target in targets():
        if figures := target.figures(runs):
            limit = f"{'<=' if target.at_most else '>='} {target.limit:g}"
            rows.append([target.name, limit, _spread(figures), "met" if target.met(figures) else "NOT MET"])
    if len(rows) > 1:
        print()
        _print(rows)


def _cell(runs: list[Results], key: Key) -> str:
    if any(key in run.failures for run in runs):
        return "failed"
    medians = [run.median(*key) for run in runs if key in run.figures]
    if not medians:
        return ""
    values = [value for run in runs for value in run.figures.get(key, ())]
    text = _number(median(medians))
    if len(values) > 1:
        text += f" ({_number(min(values))}-{_number(max(values))})"
    ratios = [found for run in runs if (found := ratio(run, key)) is not None]
    return f"{text}  x {_spread(ratios)}" if ratios else text


def _spread(values: list[float]) -> str:
    text = _number(median(values), 2)
    return f"{text} ({_number(min(values), 2)}-{_number(max(values), 2)})" if len(values) > 1 else text


def _number(value: float, least: int = 1) -> str:
    digits = 0 if abs(value) >= 1000 else least if abs(value) >= 10 or not value else 2
    return f"{value:.{digits}f}"


def _print(rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  " + _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)
