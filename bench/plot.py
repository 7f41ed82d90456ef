#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Draws a benchmark's JSON as an SVG: plot.py RESULT.json PICTURE.svg

Bars of medians on a logarithmic axis, whiskers from the fastest to the slowest round, a dashed line at the row that
the ratios are to. Needs nothing but Python."""
import json
import math
import sys
from xml.sax.saxutils import escape

WIDTH = 1000
MARGIN = 28
ROW = 25
BAR = 13
VALUES = 118  # room for the figures, to the right of the longest whisker
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"

LIGHT = {"back": "#ffffff", "frame": "#d9dee5", "ink": "#1c2430", "soft": "#667180", "grid": "#e9edf2",
         "limit": "#eeb04a", "tandem": "#2468d8", "peer": "#aab4c0", "whisker": "#39434f", "reference": "#b8791a"}
DARK = {"back": "#12171e", "frame": "#2c3540", "ink": "#e6ebf1", "soft": "#98a4b3", "grid": "#222a34",
        "limit": "#d29a3a", "tandem": "#5b9bff", "peer": "#56616e", "whisker": "#c3ccd6", "reference": "#e5b35c"}
KINDS = [("tandem", "Tandem"), ("limit", "limit of the machine"), ("peer", "others")]
UNITS = {"ns": ("time", 1e-9), "µs": ("time", 1e-6), "ms": ("time", 1e-3), "s": ("time", 1),
         "KiB": ("size", 1024), "MiB": ("size", 1 << 20)}
SCALES = {"time": [(1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")],
          "size": [(1 << 30, "GiB"), (1 << 20, "MiB"), (1024, "KiB"), (1, "B")]}


def style(colours):
    return "".join((
        ".back{fill:%(back)s;stroke:%(frame)s}" % colours,
        "text{fill:%(ink)s}.soft{fill:%(soft)s}.value{stroke:%(back)s}" % colours,
        ".grid{stroke:%(grid)s}" % colours,
        ".limit{fill:%(limit)s}.tandem{fill:%(tandem)s}.peer{fill:%(peer)s}" % colours,
        ".whisker{stroke:%(whisker)s}.reference{stroke:%(reference)s}" % colours))


def figure(v):
    """Three digits, as in the tables."""
    if v >= 99.95:
        return "{:,.0f}".format(v) if v >= 9999.5 else "%.0f" % v
    return "%.3g" % v


def quantity(v, unit):
    kind, size = UNITS.get(unit, (None, 1))
    if kind is None:
        return "%s %s" % (figure(v), unit)
    for scale, name in SCALES[kind]:
        if v * size >= scale * 0.9995 or name == SCALES[kind][-1][1]:
            return "%s %s" % (figure(v * size / scale), name)


def text_width(s, size=12.5, bold=False):
    """Near enough, without a font at hand."""
    narrow = sum(c in "iljtf.,:;|!'()[] /I" for c in s)
    wide = sum(c in "mwMWQG@%" for c in s)
    return (len(s) * 0.62 - narrow * 0.24 + wide * 0.3) * size * (1.11 if bold else 1)


class Drawing:
    def __init__(self):
        self.parts = []

    def text(self, x, y, s, size=12.5, anchor="start", kind="", bold=False):
        self.parts.append('<text x="%.1f" y="%.1f" font-size="%g"%s%s%s>%s</text>' % (
            x, y, size, '' if anchor == "start" else ' text-anchor="%s"' % anchor,
            ' class="%s"' % kind if kind else '', ' font-weight="600"' if bold else '', escape(s)))

    def value(self, x, y, figures, ratio, bold):
        self.parts.append('<text x="%.1f" y="%.1f" font-size="12" class="value" stroke-width="3.5" '
                          'stroke-linejoin="round" paint-order="stroke"><tspan%s>%s</tspan>'
                          '<tspan dx="6" font-size="11.5" class="soft">%s</tspan></text>' % (
                              x, y, ' font-weight="600"' if bold else '', escape(figures), escape(ratio)))

    def line(self, x1, y1, x2, y2, kind, width=1.0, dash=None):
        self.parts.append('<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s" stroke-width="%g"%s/>' % (
            x1, y1, x2, y2, kind, width, ' stroke-dasharray="%s"' % dash if dash else ''))

    def bar(self, x, y, width, height, kind, title):
        self.parts.append('<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2" class="%s"><title>%s</title></rect>'
                          % (x, y, width, height, kind, escape(title)))


def label_of(row):
    name = row["name"]
    return name[len("limit: "):] if row["kind"] == "limit" and name.startswith("limit: ") else name


def ticks(low, high, unit, room):
    """Round values, as many as there is room for: decades and 2 and 5 between them; of memory, powers of two."""
    if UNITS.get(unit, ("", 1))[0] == "size":
        step = next(s for s in (1, 2, 3, 4, 6) if room * s / math.log2(high / low) > 62)
        exponents = range(-step * 20, 60, step)
        values = [2.0 ** e for e in exponents]
    else:
        steps = (1, 2, 5) if room / (math.log10(high / low) * 3) > 62 else (1,)
        values = [s * 10.0 ** e for e in range(-9, 13) for s in steps]
    return [v for v in values if low * 0.999 <= v <= high * 1.001]


def round_down(v, unit):
    if UNITS.get(unit, ("", 1))[0] == "size":
        return 2.0 ** math.floor(math.log2(v) + 1e-9)
    decade = 10 ** math.floor(math.log10(v))
    return max(step * decade for step in (1, 2, 5) if step * decade <= v * 1.0001)


def better(table):
    return "more is better" if table["better"] == "higher" else "less is better"


def draw_table(d, table, y, label_right, several):
    unit = table["unit"]
    rows = [r for r in table["rows"] if r["median"] is not None or r.get("missing")]
    measured = [r for r in rows if r["median"] is not None and r["median"] > 0 and r["min"] > 0]
    if several:
        d.text(MARGIN, y + 4, table["title"], 14, bold=True)
        d.text(MARGIN + text_width(table["title"], 14, True) + 12, y + 4, better(table), 12, kind="soft")
        y += 20
    if not measured:
        d.text(MARGIN, y + 12, "nothing was measured", kind="soft")
        return y + 30

    low, high = round_down(min(r["min"] for r in measured) / 1.6, unit), max(r["max"] for r in measured) * 1.02
    if high < low * 10:
        high = low * 10
    left, right = label_right + 12, WIDTH - MARGIN - VALUES

    def at(v):
        return left + (right - left) * math.log10(max(v, low) / low) / math.log10(high / low)

    groups = []
    for r in rows:
        if not groups or groups[-1][0] != r.get("group"):
            groups.append((r.get("group"), []))
        groups[-1][1].append(r)
    top = y
    bottom = top + sum(len(g) for _, g in groups) * ROW + (len(groups) - 1) * 12 + 6
    for v in ticks(low, high, unit, right - left):
        d.line(at(v), top, at(v), bottom, "grid")
        d.text(at(v), bottom + 15, quantity(v, unit), 11, "middle", "soft")

    y = top + 3
    for _, group in groups:
        reference = next((r for r in group if r["reference"] and r["median"]), None)
        if reference:
            d.line(at(reference["median"]), y - 2, at(reference["median"]), y + len(group) * ROW, "reference", 1.2, "4 3")
        for r in group:
            middle = y + ROW / 2
            bold = r["kind"] == "tandem"
            d.text(label_right, middle + 4.3, label_of(r), 12.5, "end", bold=bold)
            if r not in measured:
                d.text(left + 6, middle + 4, r.get("missing") or "0", 11.5, kind="soft")
            else:
                span = "%s: median %s, %s to %s, n %d" % (r["name"], quantity(r["median"], unit),
                                                         quantity(r["min"], unit), quantity(r["max"], unit), r["n"])
                d.bar(left, middle - BAR / 2, max(at(r["median"]) - left, 1.5), BAR, r["kind"], span)
                x1, x2 = at(r["min"]), at(r["max"])
                d.line(x1, middle, x2, middle, "whisker", 1.2)
                for x in (x1, x2):
                    d.line(x, middle - 3.5, x, middle + 3.5, "whisker", 1.2)
                x = max(x2, at(r["median"])) + 8
                ratio = "" if r["ratio"] is None else "× " + figure(r["ratio"])
                d.value(x, middle + 4.3, quantity(r["median"], unit), ratio, bold)
            y += ROW
        y += 12
    return bottom + 26


def draw(result):
    d = Drawing()
    tables = [t for t in result["tables"] if any(r["median"] is not None or r.get("missing") for r in t["rows"])]
    machine = result["machine"]
    rows = [r for t in tables for r in t["rows"] if r["median"] is not None or r.get("missing")]
    label_right = min(MARGIN + max([text_width(label_of(r), 12.5, r["kind"] == "tandem") for r in rows] or [100]),
                      WIDTH * 0.5)
    title = result["title"][0].upper() + result["title"][1:]
    d.text(MARGIN, 40, title, 19, bold=True)
    d.text(MARGIN, 61, "median of %d rounds, logarithmic axis, %swhiskers: fastest and slowest round; "
           "×: times the dashed line" % (result["rounds"], better(tables[0]) + "; " if len(tables) == 1 else ""),
           12, kind="soft")
    x = MARGIN
    for kind, name in KINDS:
        if any(r["kind"] == kind for r in rows):
            d.bar(x, 77, 13, 13, kind, name)
            d.text(x + 19, 88, name, 12)
            x += 19 + text_width(name, 12) + 22
    d.line(x + 6.5, 76, x + 6.5, 92, "reference", 1.2, "4 3")
    d.text(x + 16, 88, "× 1", 12)
    y = 108 if len(tables) == 1 else 118
    for table in tables:
        y = draw_table(d, table, y, label_right, len(tables) > 1) + (14 if len(tables) > 1 else 0)
    footer = "%d × %s · %s · %s · %s · load %.2f%s" % (
        machine["cpus"], machine["cpu"], machine["kernel"], machine["compiler"], result["date"][:10],
        machine["load"] or 0, " · quick run" if result.get("quick") else "")
    y += 6
    d.text(MARGIN, y + 6, footer, 11, kind="soft")
    height = y + 28
    return "\n".join((
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" width="%d" height="%.0f" role="img" '
        'font-family="%s">' % (WIDTH, height, WIDTH, height, escape(FONT, {'"': "&quot;"})),
        "<title>%s</title>" % escape(title),
        "<style>%s@media (prefers-color-scheme:dark){%s}</style>" % (style(LIGHT), style(DARK)),
        '<rect x="0.5" y="0.5" width="%d" height="%.0f" rx="10" class="back"/>' % (WIDTH - 1, height - 1),
        *d.parts, "</svg>\n"))


def main(arguments):
    if len(arguments) != 3:
        print("usage: plot.py RESULT.json PICTURE.svg", file=sys.stderr)
        return 100
    with open(arguments[1], encoding="utf-8") as f:
        result = json.load(f)
    with open(arguments[2], "w", encoding="utf-8") as f:
        f.write(draw(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
