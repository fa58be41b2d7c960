"""The site: the documents of docs/SUMMARY.md by mdBook, and a check that every link and anchor of it leads somewhere.

Usage: build.py MDBOOK FOLDER. Writes FOLDER/source, what the book is made from, and FOLDER/book, the site. Needs no network.
The files keep their places, so that a link holds in the repository and on the site; what the pages link to comes along.
"""

import html
import html.parser
import os
import pathlib
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse

import pictures

ROOT = pathlib.Path(__file__).resolve().parents[1]
HERE = ROOT / "site"
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Of HTML in a page: a picture with one source for light and one for dark.
ATTRIBUTE = re.compile(r'(?:src|srcset|href)="([^"]+)"')
FENCE = re.compile(r"^```.*?^```", re.S | re.M)


def is_relative(target):
    return not re.match(r"[a-z]+:|#|/", target)


def prose(text):
    """A page without its blocks of code, where brackets are no links."""
    return FENCE.sub("", text)


def chapters():
    """The paths of the pages, in their order, from the root of the repository."""
    summary = (ROOT / "docs/SUMMARY.md").read_text()
    return [posixpath.normpath(posixpath.join("docs", target)) for target in LINK.findall(summary)]


def listing(folder):
    """A page for a link to a folder: its files."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    rows = "".join(f'<li><a href="{html.escape(name)}">{html.escape(name)}</a></li>\n' for name in files)
    title = html.escape(folder.name)
    return f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{title}</title>\n<h1>{title}</h1>\n<ul>\n{rows}</ul>\n</html>\n'


def stage(source):
    """Copies the pages and what they link to; gives what is wrong with it."""
    pages, wrong = chapters(), []
    folders, files = set(), set()
    for page in pages:
        if not (ROOT / page).is_file():
            wrong.append(f"docs/SUMMARY.md: {page} does not exist")
            continue
        text = (ROOT / page).read_text()

        def found(target):
            path, mark, anchor = target.partition("#")
            if not path or not is_relative(target):
                return target
            place = posixpath.normpath(posixpath.join(posixpath.dirname(page), path))
            if (ROOT / place).is_dir():
                folders.add(place)
                return f"{path.rstrip('/')}/index.html"
            if place.endswith(".md") and place not in pages:
                wrong.append(f"{page} links to {place}, which is not in docs/SUMMARY.md")
            elif (ROOT / place).is_file():
                files.add(place)
            # mdBook names such a page index, and does not tell the links to it.
            return re.sub(r"README\.md(#|$)", r"index.md\1", target) if place in pages else target

        pieces = re.split(f"({FENCE.pattern})", text, flags=FENCE.flags)
        for at in range(1, len(pieces), 2):
            # mdBook draws no graphs; GitHub does.
            if pieces[at].startswith("```mermaid\n"):
                drawing = (source / page).with_suffix(f".{at}.svg")
                drawing.parent.mkdir(parents=True, exist_ok=True)
                drawing.write_text(pictures.graph(pieces[at]).svg())
                pieces[at] = f"![A graph]({drawing.name})"
        for at in range(0, len(pieces), 2):
            pieces[at] = LINK.sub(lambda link: f"]({found(link[1])})", pieces[at])
            for target in ATTRIBUTE.findall(pieces[at]):
                found(target)
        (source / page).parent.mkdir(parents=True, exist_ok=True)
        (source / page).write_text("".join(pieces))
    wrong.extend(
        f"{path.relative_to(ROOT)} is not in docs/SUMMARY.md"
        for path in sorted((ROOT / "docs").rglob("*.md"))
        if path.name != "SUMMARY.md" and path.relative_to(ROOT).as_posix() not in pages
    )
    for folder in folders:
        shutil.copytree(
            ROOT / folder, source / folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "*.md", "charts")
        )
        if f"{folder}/README.md" not in pages:
            (source / folder / "index.html").write_text(listing(source / folder))
    for file in files - set(pages):
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, source / file)
    summary = (ROOT / "docs/SUMMARY.md").read_text()
    here = lambda link: f"]({posixpath.normpath(posixpath.join('docs', link[1]))})"
    (source / "SUMMARY.md").write_text(LINK.sub(here, summary))
    return wrong


class Page(html.parser.HTMLParser):
    """The anchors that a page of the site has, and where it leads."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.targets = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        for name in ("id", "name"):
            if attributes.get(name):
                self.anchors.add(attributes[name])
        for name in ("href", "src", "srcset"):
            if attributes.get(name):
                self.targets.append((tag, attributes[name]))


def check(book):
    """Every link of the site that leads nowhere, and everything that a page would fetch from elsewhere."""
    # 404.html is shown at any address, so its links hang on where the site is.
    pages = {path: Page(path.read_text()) for path in sorted(book.rglob("*.html")) if path.name != "404.html"}
    wrong, links = [], 0
    for path, page in pages.items():
        for tag, target in page.targets:
            place = f"{path.relative_to(book)}: {target}"
            if not is_relative(target) and not target.startswith("#"):
                if tag in ("script", "link", "img", "source"):
                    wrong.append(f"{place} is fetched from elsewhere")
                continue
            links += 1
            to, _, anchor = target.partition("#")
            there = (path.parent / urllib.parse.unquote(to.partition("?")[0])).resolve() if to else path
            if not there.is_file():
                wrong.append(f"{place} leads nowhere")
            elif anchor and there in pages and urllib.parse.unquote(anchor) not in pages[there].anchors:
                wrong.append(f"{place}: there is no such anchor")
    return wrong, len(pages), links


def refuses_what_is_wrong():
    """The check on a page that it must find wrong three times, and nothing else in."""
    with tempfile.TemporaryDirectory() as folder:
        book = pathlib.Path(folder).resolve()
        good = '<a id="here" href="b.html#there">x</a><a href="https://example.com/">x</a><a href="#here">x</a>'
        bad = '<a href="c.html">x</a><a href="b.html#nowhere">x</a><script src="https://example.com/a.js"></script>'
        (book / "a.html").write_text(good + bad)
        (book / "b.html").write_text('<h2 id="there">x</h2>')
        wrong, _, _ = check(book)
        assert [line.split(": ", 1)[1].split()[0].rstrip(":") for line in wrong] == [
            "c.html", "b.html#nowhere", "https://example.com/a.js"
        ], wrong


def main():
    refuses_what_is_wrong()
    mdbook, folder = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
    if not shutil.which(mdbook):
        sys.exit(f"site: {mdbook} is not installed; pip install --require-hashes -r .ci/tools.txt brings it")
    source = folder / "source"
    shutil.rmtree(folder, ignore_errors=True)
    source.mkdir(parents=True)
    for name in ("book.toml", "tables.css"):
        shutil.copyfile(HERE / name, folder / name)
    wrong = pictures.stale() + stage(source)
    subprocess.run([mdbook, "build", folder], check=True, env={**os.environ, "RUST_LOG": "warn"})
    if not any("CustomerNotEntitledException" in index.read_text() for index in folder.glob("book/searchindex*.js")):
        wrong.append("the search does not find a code of the runbook")
    dead, pages, links = check(folder / "book")
    wrong += dead
    for line in wrong:
        print(f"site: {line}", file=sys.stderr)
    print(f"site: {pages} pages, {links} links, {len(wrong)} wrong; {folder / 'book/index.html'}")
    sys.exit(1 if wrong or pages < 20 or links < 500 else 0)


if __name__ == "__main__":
    main()
