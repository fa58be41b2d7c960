"""Writes deploy/observability/rules.yaml into the library chart, its braces escaped for Helm."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[2]
text = (ROOT / "deploy/observability/rules.yaml").read_text()
body = text[text.index("groups:") :].rstrip()
for brace, escaped in (("{{", "\0"), ("}}", "\1"), ("\0", '{{ "{{" }}'), ("\1", '{{ "}}" }}')):
    body = body.replace(brace, escaped)
head = "{{/* Made from deploy/observability/rules.yaml by `just chart-rules`; tests/packaging compares the two. */}}\n"
chart = f'{head}{{{{- define "tollgate.rules" -}}}}\n{body}\n{{{{- end -}}}}\n'
(ROOT / "helm/tollgate/templates/_rules.tpl").write_text(chart)
