"""The pictures of the documents, as SVG that is light or dark as the reader's screen is.

Usage: pictures.py [FOLDER] writes them, into docs/images unless told otherwise. `just site` compares what stands there with this.
"""

import html
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/images"
STYLE = """
  .ground { fill: #ffffff } .word { fill: #1b1f24 } .small { fill: #4b5563 } .label { stroke: #ffffff } .line { stroke: #4b5563 } .tip { fill: #4b5563 }
  .box { fill: #f3f4f6; stroke: #9ca3af } .open { fill: #dcfce7; stroke: #15803d } .shut { fill: #fee2e2; stroke: #b91c1c }
  .wait { fill: #fef3c7; stroke: #b45309 }
  @media (prefers-color-scheme: dark) {
    .ground { fill: #161b22 } .word { fill: #e6edf3 } .small { fill: #aab4c0 } .label { stroke: #161b22 } .line { stroke: #aab4c0 } .tip { fill: #aab4c0 }
    .box { fill: #21262d; stroke: #6e7681 } .open { fill: #10341f; stroke: #3fb950 } .shut { fill: #3d1518; stroke: #f85149 }
    .wait { fill: #3a2a08; stroke: #d29922 }
  }
  text { font: 14px system-ui, sans-serif } .small { font-size: 12px } .strong { font-weight: 600 } .label { paint-order: stroke; stroke-width: 5 }
  .line { fill: none; stroke-width: 1.5 } .dashed { stroke-dasharray: 5 4 }
"""


class Picture:
    """An SVG that grows."""

    def __init__(self, width, height, title, text):
        self.size, self.title, self.text, self.parts = (width, height), title, text, []

    def word(self, x, y, text, kind="word", anchor="middle"):
        self.parts.append(f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>')

    def box(self, x, y, width, height, lines, kind="box"):
        """A box with its first line strong and the others small, in its middle."""
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>')
        top = y + height / 2 - 8 * (len(lines) - 1) + 5
        for number, line in enumerate(lines):
            self.word(x + width / 2, top + 16 * number, line, "small" if number else "word strong")

    def line(self, points, dashed=False, tip=True):
        """A line through the points, with a tip at its end."""
        path = "M" + " L".join(f"{x} {y}" for x, y in points)
        more = ' marker-end="url(#tip)"' if tip else ""
        self.parts.append(f'<path class="line{" dashed" if dashed else ""}" d="{path}"{more}/>')

    def svg(self):
        width, height = self.size
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">',
            f"<title>{html.escape(self.title)}</title>",
            f"<desc>{html.escape(self.text)}</desc>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto-start-reverse">'
            '<path class="tip" d="M0 0 L10 5 L0 10 z"/></marker></defs>',
            f'<rect class="ground" width="{width}" height="{height}" rx="8"/>',
            *self.parts,
            "</svg>\n",
        ])


def sequence():
    """How a pod starts."""
    picture = Picture(
        900, 560, "How a pod starts behind the gate",
        "The kubelet starts tollgate and tollgate-await. tollgate asks AWS with a nonce, verifies the signed answer, and opens the gate. "
        "tollgate-await then ends, and the kubelet starts the application.",
    )
    at = {"kubelet": 90, "tollgate-await": 270, "tollgate": 470, "AWS": 670, "application": 810}
    for name, x in at.items():
        picture.box(x - 62, 20, 124, 34, [name], "open" if name == "application" else "box")
        picture.line([(x, 54), (x, 540)], dashed=True, tip=False)
    y = 90

    def tell(a, b, text, step=40, dashed=False):
        nonlocal y
        picture.word((at[a] + at[b]) / 2, y - 6, text, "small label")
        picture.line([(at[a], y), (at[b], y)], dashed)
        y += step

    def note(a, text, kind="box", width=240):
        nonlocal y
        picture.box(at[a] - width / 2, y - 22, width, 30, [], kind)
        picture.word(at[a], y - 2, text, "small")
        y += 44

    tell("kubelet", "tollgate", "starts the sidecar")
    tell("kubelet", "tollgate-await", "starts the lock")
    tell("tollgate-await", "tollgate", "is this pod's gate open?", 34)
    tell("tollgate", "tollgate-await", "not yet", 40, dashed=True)
    tell("tollgate", "AWS", "RegisterUsage, nonce", 34)
    tell("AWS", "tollgate", "signed token", 44, dashed=True)
    note("tollgate", "verifies signature, nonce, product, key")
    note("tollgate", "the gate is open", "open", 150)
    tell("tollgate", "tollgate-await", "open", 40, dashed=True)
    tell("tollgate-await", "kubelet", "ends with 0", 40, dashed=True)
    tell("kubelet", "application", "starts the application")
    return picture


def states():
    """What the gate can be in."""
    picture = Picture(
        960, 500, "The states of the gate",
        "From pending the gate opens when AWS answers yes (entitled), or for a time while AWS is unreachable (grace). It is shut with a reason "
        "when AWS refuses (denied), no seat is free (exhausted), usage stays unreported (unreported), something is configured wrongly "
        "(misconfigured), the answer is not AWS's (unverified), or AWS gives no answer (unavailable).",
    )
    picture.box(30, 190, 160, 60, ["pending", "AWS is being asked"], "wait")
    picture.box(30, 330, 160, 60, ["unavailable", "no answer for 30 min"], "wait")
    picture.box(400, 40, 170, 60, ["grace", "AWS is unreachable"], "open")
    picture.box(400, 190, 170, 60, ["entitled", "AWS has answered"], "open")
    picture.box(760, 40, 170, 60, ["lapsed", "no longer entitled"], "open")
    picture.box(760, 190, 170, 60, ["unreported", "usage is unsent for long"], "shut")
    for x, name, why in (
        (230, "misconfigured", "wrong product, role"), (410, "unverified", "not AWS's answer"),
        (590, "denied", "no subscription"), (770, "exhausted", "no free seat"),
    ):
        picture.box(x, 400, 160, 60, [name, why], "shut")
    picture.line([(190, 212), (400, 212)])
    picture.word(295, 204, "yes, verified", "small label")
    picture.line([(110, 190), (110, 70), (400, 70)])
    picture.word(250, 62, "AWS away; the seller allows it", "small label")
    picture.line([(485, 100), (485, 190)])
    picture.word(493, 150, "AWS answers", "small label", "start")
    picture.line([(110, 250), (110, 330)])
    picture.line([(150, 330), (150, 250)])
    picture.word(158, 296, "retries continue", "small label", "start")
    # One way to the four refusals, and one way back.
    picture.line([(190, 236), (310, 236), (310, 330), (850, 330), (850, 400)])
    for x in (310, 490, 670):
        picture.line([(x, 330), (x, 400)])
    picture.word(580, 322, "AWS, or the check of its answer, says no; asked again until it says yes", "small label")
    picture.line([(570, 205), (660, 205), (660, 70), (760, 70)])
    picture.word(668, 140, "the subscription ends", "small label", "start")
    picture.line([(570, 222), (760, 222)])
    picture.line([(760, 238), (570, 238)])
    picture.word(665, 270, "on_unsent; back when AWS accepts", "small label")
    picture.line([(930, 70), (945, 70), (945, 370), (700, 370), (700, 400)])
    picture.word(935, 362, "on_lapse closes", "small label", "end")
    for x, kind, text in ((30, "open", "open"), (130, "wait", "shut: no answer yet"), (330, "shut", "shut: with a reason")):
        picture.box(x, 476, 14, 14, [], kind)
        picture.word(x + 22, 488, text, "small", "start")
    return picture


def hour():
    """What becomes of the usage of an hour."""
    picture = Picture(
        960, 430, "The life of an hour in the ledger",
        "Events of 08:00 to 09:00 are added up on disk. At 09:02 the hour is sealed. Within ten minutes the record is sent. AWS accepts it, or "
        "refuses it, or gives no answer; then it is sent again unchanged. When AWS's window of six hours is over, what was certainly not "
        "billed is carried to the current hour, and what is in doubt becomes a dead letter.",
    )
    picture.line([(40, 70), (920, 70)])
    for x, time in ((60, "08:00"), (300, "09:00"), (370, "09:02"), (560, "09:12"), (880, "6 hours later")):
        picture.line([(x, 62), (x, 78)], tip=False)
        picture.word(x, 50, time, "small label")
    picture.word(720, 50, "AWS's window", "small label")
    picture.box(60, 100, 240, 66, ["open", "events are added up", "each is on disk before its answer"], "box")
    picture.box(370, 100, 150, 66, ["sealed", "sum, time and token", "are fixed on disk"], "box")
    picture.word(335, 92, "settle", "small label")
    picture.line([(300, 133), (370, 133)])
    picture.box(590, 100, 150, 66, ["sent", "the attempt is on disk", "before the call"], "wait")
    picture.line([(520, 133), (590, 133)])
    picture.word(555, 92, "0 to 10 min", "small label")
    picture.box(790, 100, 140, 66, ["accepted", "billed, once"], "open")
    picture.line([(740, 133), (790, 133)])
    picture.box(430, 230, 190, 60, ["refused", "certainly not billed"], "wait")
    picture.box(680, 230, 190, 60, ["in doubt", "no answer: perhaps billed"], "wait")
    picture.line([(640, 166), (640, 200), (545, 200), (545, 230)])
    picture.line([(505, 230), (505, 185), (612, 185), (612, 166)])
    picture.line([(690, 166), (690, 200), (755, 200), (755, 230)])
    picture.line([(800, 230), (800, 185), (718, 185), (718, 166)])
    picture.word(495, 205, "sent again", "small label", "end")
    picture.word(810, 205, "sent again, unchanged", "small label", "start")
    picture.box(430, 350, 190, 60, ["carried", "to the current hour"], "box")
    picture.box(680, 350, 190, 60, ["dead letter", "a person decides"], "shut")
    picture.line([(525, 290), (525, 350)])
    picture.line([(775, 290), (775, 350)])
    picture.word(650, 326, "the window is over", "small label")
    picture.box(40, 350, 280, 60, ["the balance", "accepted + rounded up = billed", "+ pending + dead + discarded + remainder"], "box")
    return picture


def graph(mermaid):
    """A small `graph TD` of a document: each box below all that need it."""
    edges = [(line.split()[0], line.split()[-1], "-.->" in line) for line in mermaid.splitlines() if ">" in line]
    names = sorted({name for edge in edges for name in edge[:2]})

    def depth(name):
        return max((depth(a) + 1 for a, b, _ in edges if b == name), default=0)

    rows = {}
    for name in names:
        rows.setdefault(depth(name), []).append(name)
    # A box stands under those that need it, as far as its row has room.
    places = {}
    for row in sorted(rows):
        above = lambda name: [places[a] for a, b, _ in edges if b == name and a in places]
        ordered = sorted(rows[row], key=lambda name: sum(above(name)) / max(len(above(name)), 1))
        for number, name in enumerate(ordered):
            places[name] = 450 + 190 * (number - (len(ordered) - 1) / 2) + (60 if row % 2 else -60) * (len(ordered) == 1)
    picture = Picture(900, 90 * len(rows) + 10, "The crates", "An arrow leads to what a crate needs; a dashed one is an option.")
    for a, b, optional in edges:
        picture.line([(places[a], 90 * depth(a) + 54), (places[b], 90 * depth(b) + 20)], optional)
    for name in names:
        picture.box(places[name] - 65, 90 * depth(name) + 20, 130, 34, [name])
    return picture


PICTURES = {"sequence": sequence, "states": states, "hour": hour}


def made():
    """Each picture's file name with its text."""
    return {f"{name}.svg": draw().svg() for name, draw in PICTURES.items()}


def stale():
    """Pictures that are not what this makes."""
    there = {path.name: path.read_text() for path in FOLDER.glob("*.svg")}
    return [f"docs/images/{name} is not what site/pictures.py makes; run `just pictures`" for name, text in made().items() if there.get(name) != text]


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in made().items():
        (folder / name).write_text(text)
