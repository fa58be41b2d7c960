"""Questions that AWS's documents leave open, and the step of a run that settles each: one row for each switch of the emulator that a run can settle.

A row has the switch, the question, and the interpretation of the steps' outcomes. An answer is the name of one of the switch's values, or
None if the run has not settled it.
"""

OK, DRY_RUN = "ok", "DryRunOperation"


def settled(steps):
    """{switch: answer or None} by the steps of one run: a list of dictionaries with platform, part, step, outcome and facts."""
    return {switch: read(Steps(steps)) for switch, _, _, read in FACTS}


class Steps:
    def __init__(self, steps):
        self.steps = steps

    def all(self, name):
        return [step for step in self.steps if step["step"] == name]

    def one(self, name, choose, *names):
        """The answer that every pod and task gave; None if they differ, or if none of them reached the step."""
        answers = {choose(step) for step in self.all(name)} - {None}
        return answers.pop() if len(answers) == 1 else None

    def outcome(self, name, **answers):
        """Reads the outcome of a step. A hyphen in a switch's answer is an underscore here."""
        table = {code: answer.replace("_", "-") for answer, codes in answers.items() for code in (codes if isinstance(codes, tuple) else (codes,))}
        return self.one(name, lambda step: table.get(step["outcome"]))

    def fact(self, name, fact, answers):
        return self.one(name, lambda step: answers.get(step.get(fact)))



def pod_start(steps):
    return steps.outcome("zero before the start", unknown=OK, first_call="TimestampOutOfBoundsException")


def hour_before_start(steps):
    # If AWS does not know when a pod started, no hour is before the pod.
    if pod_start(steps) == "first-call":
        return steps.outcome("zero", accepted=OK, refused="TimestampOutOfBoundsException")
    return steps.outcome("zero", refused="TimestampOutOfBoundsException")


def allocations_differ(steps):
    conflict = steps.outcome("zero with allocations", duplicate="DuplicateRequestException")
    return conflict or steps.outcome("the same record", same=OK)


def repeated_client_token(steps):
    return steps.outcome("the same checkout", same_token=OK, new_seat="other")


def other_region(steps):
    where = {"region": "redirect", "url": "redirect-url"}
    return steps.one("checkout in another region", lambda step: "served" if step["outcome"] == OK else where.get(step.get("location")))


def eks_fargate(steps):
    table = {OK: "supported", "PlatformNotSupportedException": "refused"}
    return steps.one("register", lambda step: table.get(step["outcome"]) if step["platform"] == "eks-fargate" else None)


FACTS = [
    ("claim_case", "Which casing have the claims of the token?", "register", lambda s: s.fact("register", "claim_case", {"camel": "camel", "pascal": "pascal"})),
    ("issued_at", "Does the token have iat?", "register", lambda s: s.fact("register", "issued_at", {"seconds": "seconds", "omitted": "omitted"})),
    ("rotation_claim", "Does the token have PublicKeyRotationTimestamp as a claim?", "register", lambda s: s.fact("register", "rotation_claim", {"omitted": "omitted", "present": "present"})),
    ("salt_length", "How long is the salt of the signature?", "register", lambda s: s.one("register", lambda step: {None: None, 32: "digest"}.get(step.get("salt_bytes"), "longest"))),
    ("absent_rotation", "Is PublicKeyRotationTimestamp null or absent while the key is current?", "register", lambda s: s.fact("register", "rotation", {"null": "null", "omitted": "omitted"})),
    ("absent_nonce", "Without a nonce, is the claim absent or null?", "register without a nonce", lambda s: s.fact("register without a nonce", "nonce", {"omitted": "omitted", "null": "null"})),
    ("expired_key", "Does AWS still sign for a rotated key version?", "register with a rotated key", lambda s: s.outcome("register with a rotated key", signed=OK, refused="InvalidPublicKeyVersionException")),
    ("eks_fargate", "Does RegisterUsage work on EKS with Fargate?", "register", eks_fargate),
    ("refused_pod", "Is a pod that was refused judged again?", "register after a refusal", lambda s: s.outcome("register after a refusal", refused_again="CustomerNotEntitledException", accepted=OK)),
    ("dry_run", "What does a dry run with permission answer?", "dry run", lambda s: s.outcome("dry run", answer=OK, exception=DRY_RUN)),
    ("dry_run_checks", "What does a dry run check?", "dry run of an unknown dimension", lambda s: s.outcome("dry run of an unknown dimension", permission=(OK, DRY_RUN), everything="InvalidUsageDimensionException")),
    ("pod_start", "Does AWS know when a pod began?", "zero before the start", pod_start),
    ("hour_before_start", "May a pod report for an hour that began before it?", "zero", hour_before_start),
    ("allocations_differ", "Is the same quantity with other allocations a conflict?", "zero with allocations", allocations_differ),
    ("client_token_scope", "Is a ClientToken known for the pod or for the account?", "client token of another pod", lambda s: s.outcome("client token of another pod", pod=OK, account="IdempotencyConflictException")),
    ("authorization_code", "How does License Manager refuse a role without permission?", "list without permission", lambda s: s.outcome("list without permission", Authorization="AuthorizationException", AccessDenied="AccessDeniedException")),
    ("repeated_client_token", "Does the same ClientToken take a seat twice?", "the same checkout", repeated_client_token),
    ("unit_mismatch", "How does License Manager refuse another unit?", "checkout in another unit", lambda s: s.outcome("checkout in another unit", no_entitlements="NoEntitlementsAllowedException", validation="ValidationException")),
    ("other_region", "What does CheckoutLicense answer in another region?", "checkout in another region", other_region),
    ("expiration_format", "Do times of License Manager have a zone?", "checkout", lambda s: s.fact("checkout", "zone", {True: "zone", False: "none"})),
]
