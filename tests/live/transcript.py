"""The transcript of a run, which may be shown to others: it is redacted when it is written, and searched again at its end.

- Values that the run knows (credentials, account, roles, subnets) are hidden everywhere, plain, in base64 or in a URL.
- Values with a known form are hidden too: account numbers, access keys, tokens, license numbers, and any unbroken run of
  characters that is long enough to be a secret.
- The same value gets the same name, so that a reader can see which values are equal.
"""

import base64
import contextlib
import os
import re
import urllib.parse

# Shorter values are no secrets, and are part of too many words.
SECRET_CHARS_MIN = 6
# In this order, because a token is also a long text with digits.
FORMS = [
    ("TOKEN", re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*")),
    ("ACCESS-KEY", re.compile(r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b")),
    ("LICENSE", re.compile(r"\bl-[0-9a-f]{16,}\b")),
    ("LONG", re.compile(r"[A-Za-z0-9+/=_-]{48,}")),
    ("ACCOUNT", re.compile(r"(?<!\d)\d{12}(?!\d)")),
]


class Leak(Exception):
    """The redacted text still contains a value that it must not contain."""


def forms_of(value):
    """The forms in which a value may be in a text."""
    plain = value.encode()
    encoded = base64.b64encode(plain).decode().rstrip("=")
    return {value, encoded, encoded.replace("+", "-").replace("/", "_"), urllib.parse.quote(value, safe="")}


class Transcript:
    """Writes lines to standard output and to a new file that only its owner can read."""

    def __init__(self, path):
        self.path = path
        self.file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
        self.known = {}
        self.names = {}

    def hide(self, kind, *values):
        """Hides these values from now on."""
        for value in values:
            if value and len(value) >= SECRET_CHARS_MIN:
                self.known.setdefault(value, kind)

    def name(self, kind, value):
        same = self.names.setdefault(kind, {})
        return f"[{kind}-{same.setdefault(value, len(same) + 1)}]"

    def redacted(self, text):
        # The longest first, because a role's ARN contains the account.
        for value in sorted(self.known, key=len, reverse=True):
            for form in forms_of(value):
                if form in text:
                    text = text.replace(form, self.name(self.known[value], value))
        for kind, form in FORMS:
            text = form.sub(lambda found: self.name(kind, found[0]), text)
        # A container's line must not become two lines here, nor move a terminal's cursor.
        return "".join(character if character.isprintable() else " " for character in text)

    def write(self, text=""):
        line = self.redacted(text)
        print(line, flush=True)
        self.file.write(line + "\n")
        self.file.flush()

    def close(self):
        """Searches the written text; removes a file that leaks."""
        self.file.close()
        with open(self.path) as file:
            text = file.read()
        found = sum(form in text for value in self.known for form in forms_of(value))
        found += sum(len(form.findall(text)) for _, form in FORMS)
        if found:
            with contextlib.suppress(OSError):
                os.remove(self.path)
            raise Leak(f"the transcript contained {found} values that must not be shown; it was removed")
