"""Writes deploy/observability/rules.yaml into the charts, its braces escaped for Helm: all rules into the library chart, and into that of
tollgate-saas those that can fire there."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
# tollgate-saas has no buyer to check, no license and no file as its ledger; its replicas are counted together.
NOT_SAAS = {
    "TollgateNotEntitled", "TollgatePendingTooLong", "TollgateGrace", "TollgateLapsed", "TollgateBadToken", "TollgateKeyRotated",
    "TollgateExhausted", "TollgateLicenseEnding", "TollgateLicenseEnded", "TollgateLicenseNotRenewed", "TollgateLicenseSeatsLow",
    "TollgateLedgerFull", "TollgateLedgerFilling", "TollgateStateUnwritable", "TollgateEntitledAfterRefusal", "TollgateUnreported",
    "TollgateUsageNotBilled", "TollgateUsageOverdue",
}


def chart(name, body):
    """Writes the template of one chart."""
    for brace, escaped in (("{{", "\0"), ("}}", "\1"), ("\0", '{{ "{{" }}'), ("\1", '{{ "}}" }}')):
        body = body.replace(brace, escaped)
    head = "{{/* Made from deploy/observability/rules.yaml by `just chart-rules`; tests/packaging compares the two. */}}\n"
    text = f'{head}{{{{- define "{name}.rules" -}}}}\n{body}\n{{{{- end -}}}}\n'
    (ROOT / f"helm/{name}/templates/_rules.tpl").write_text(text)


def main():
    text = (ROOT / "deploy/observability/rules.yaml").read_text()
    body = text[text.index("groups:") :].rstrip()
    chart("tollgate", body)
    # A rule is the comment above it, its first line, and the lines that are indented further.
    rules = re.compile(r"(?:^      #.*\n)*^      - alert: (\w+)\n(?:^        .*\n)*", re.M)
    chart("tollgate-saas", rules.sub(lambda rule: "" if rule[1] in NOT_SAAS else rule[0], body + "\n").rstrip())


if __name__ == "__main__":
    main()
