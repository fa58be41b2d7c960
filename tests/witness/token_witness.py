#!/usr/bin/env python3
"""Two independent implementations of JOSE and RSA-PSS against `tollgate verify`.

PyJWT (with cryptography) and the openssl command make valid tokens, and forged ones of every known class. The binary must
accept the valid ones and refuse the forged ones, each with the exit code and reason of the design. Then PyJWT verifies the
same tokens, which shows that another implementation accepts the valid ones, too.

Run as: python token_witness.py <path to the tollgate binary>
Needs: PyJWT and cryptography (PyPI), and the openssl command. Each run makes new keys and deletes them.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

NONCE = "hV9vJ0mY-a_2bSfT0Lk3Qz1XwR7uE5iOpA8sD6fG4hJ"
PRODUCT = "demohourly"
HEADER = {"alg": "PS256", "typ": "JWT"}
# The time limit of a command with these short inputs, on a loaded machine; after it the command is stopped, and the
# witness fails.
TIMEOUT_S = 60


def b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**more: object) -> dict[str, object]:
    return {"productCode": PRODUCT, "nonce": NONCE, "publicKeyVersion": 1, "iat": int(time.time())} | more


def without(name: str) -> dict[str, object]:
    return {key: value for key, value in claims().items() if key != name}


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def pem_of(key: object) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def public_pem(key: object) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@dataclass
class Signer:
    """A seller's key, and the ways of signing with it."""

    key: rsa.RSAPrivateKey
    folder: Path
    name: str
    public: Path = field(init=False)
    private: Path = field(init=False)

    def __post_init__(self) -> None:
        self.public = self.folder / f"{self.name}.pub.pem"
        self.private = self.folder / f"{self.name}.pem"
        self.public.write_bytes(public_pem(self.key))
        self.private.write_bytes(pem_of(self.key))

    def pyjwt(self, payload: dict[str, object], alg: str = "PS256", headers: dict | None = None) -> str:
        return jwt.encode(payload, self.key, algorithm=alg, headers=headers)

    def raw(self, header: str | bytes, payload: str | bytes, salt: int = 32, mgf: type = hashes.SHA256) -> str:
        """Signs the given header and payload by cryptography, as PS256 or a variant of it."""
        as_bytes = [part.encode() if isinstance(part, str) else part for part in (header, payload)]
        message = ".".join(map(b64u, as_bytes))
        pss = padding.PSS(mgf=padding.MGF1(mgf()), salt_length=salt)
        return f"{message}.{b64u(self.key.sign(message.encode(), pss, hashes.SHA256()))}"

    def claims(self, payload: dict[str, object]) -> str:
        return self.raw(compact(HEADER), compact(payload))

    def openssl(self, payload: dict[str, object], salt: str = "32", mgf: str = "sha256") -> str:
        """Signs by the openssl command, without any Python library."""
        message = f"{b64u(compact(HEADER).encode())}.{b64u(compact(payload).encode())}"
        options = ["rsa_padding_mode:pss", f"rsa_pss_saltlen:{salt}", f"rsa_mgf1_md:{mgf}"]
        command = ["openssl", "dgst", "-sha256", "-sign", str(self.private), "-binary"]
        for option in options:
            command += ["-sigopt", option]
        signed = subprocess.run(command, input=message.encode(), capture_output=True, check=True, timeout=TIMEOUT_S)
        return f"{message}.{b64u(signed.stdout)}"


@dataclass
class Case:
    """A token (or a key file), and the expected verdict; no reason means that it is accepted."""

    name: str
    token: str | bytes
    reason: str | None
    key: Path
    version: str = "1"
    exit: int | None = None


class Witness:
    """Runs the binary and counts."""

    def __init__(self, binary: str) -> None:
        self.binary = binary
        self.passed = 0
        self.failed = 0

    def run(self, case: Case) -> None:
        command = [self.binary, "verify", "--product-code", PRODUCT, "--public-key-version", case.version]
        command += ["--public-key", str(case.key), "--nonce", NONCE, "-"]
        token = case.token.encode() if isinstance(case.token, str) else case.token
        ran = subprocess.run(command, input=token, capture_output=True, timeout=TIMEOUT_S)
        expected = case.exit if case.exit is not None else (0 if case.reason is None else 76)
        problems = []
        if ran.returncode != expected:
            problems.append(f"exit {ran.returncode}, expected {expected}")
        if case.reason is None:
            payload = token.split(b".")[1]
            signed = base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4))
            if expected == 0 and ran.stdout.rstrip(b"\n") != signed:
                problems.append(f"printed {ran.stdout[:80]!r}, not the claims that were signed")
        else:
            lines = ran.stderr.decode().splitlines()
            if ran.stdout or len(lines) != 1 or f": {case.reason}: " not in lines[0]:
                problems.append(f"said {lines!r} and printed {ran.stdout[:80]!r}, expected one line with {case.reason}")
        self.count(case.name, problems)

    def count(self, name: str, problems: list[str]) -> None:
        self.passed += not problems
        self.failed += bool(problems)
        for problem in problems:
            print(f"FAILED {name}: {problem}")


def good(signers: list[Signer]) -> Iterator[Case]:
    now = int(time.time())
    pascal = {"ProductCode": PRODUCT, "PublicKeyVersion": 1, "PublicKeyRotationTimestamp": None, "Nonce": NONCE}
    for signer in signers:
        bits = f"{signer.name} by"
        yield Case(f"{bits} PyJWT", signer.pyjwt(claims()), None, signer.public)
        yield Case(f"{bits} PyJWT, PascalCase", signer.pyjwt(pascal), None, signer.public)
        yield Case(f"{bits} openssl", signer.openssl(claims()), None, signer.public)
        yield Case(f"{bits} cryptography", signer.claims(claims()), None, signer.public)
    signer = signers[0]
    for name, payload in {
        "without iat": without("iat"),
        "another claim": claims(region="us-east-1", nested={"nonce": "x", "PRODUCTCODE": "x"}),
        "exp to come": claims(exp=now + 60),
        "exp past by less than five minutes": claims(exp=now - 200),
        "nbf to come in less than five minutes": claims(nbf=now + 200),
        "times with fractions": claims(exp=now + 60.5, nbf=now - 60.5, iat=now + 0.25),
        "an iat of another year": claims(iat=1),
    }.items():
        yield Case(name, signer.claims(payload), None, signer.public)
    for name, extra in {
        "kid": {"kid": "../../etc/passwd"},
        "jku": {"jku": "https://attacker.example/jwks.json"},
        "x5u": {"x5u": "https://attacker.example/cert.pem"},
        "x5c": {"x5c": ["MIIB"]},
        "cty": {"cty": "JWT"},
    }.items():
        yield Case(f"{name} is ignored", signer.pyjwt(claims(), headers=extra), None, signer.public)
    spaced = json.dumps(claims(), indent=2)
    yield Case("claims over several lines", signer.raw(json.dumps(HEADER, indent=1), spaced), None, signer.public)
    yield Case("a line end of the shell", signer.claims(claims()) + "\n", None, signer.public, exit=0)


def forged_signatures(seller: Signer, stranger: Signer) -> Iterator[Case]:
    token = seller.pyjwt(claims())
    header, payload, signature = token.split(".")
    public = seller.public.read_bytes()
    key = seller.public

    def case(name: str, token: str, reason: str = "SignatureInvalid") -> Case:
        return Case(name, token, reason, key)

    yield case("another key", stranger.pyjwt(claims()))
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(stranger.key.public_key()))
    for name, extra in {"jwk": {"jwk": jwk}, "kid": {"kid": "1"}, "jku": {"jku": "https://attacker.example"}}.items():
        yield case(f"another key, brought along as {name}", stranger.pyjwt(claims(), headers=extra))
    yield case("one payload under another's signature", f"{header}.{b64u(compact(claims(x=1)).encode())}.{signature}")
    for salt in (0, 20, 31, 33, 64):
        yield case(f"cryptography, salt of {salt}", seller.raw(compact(HEADER), compact(claims()), salt))
    for salt in ("0", "20", "max"):
        yield case(f"openssl, salt of {salt}", seller.openssl(claims(), salt))
    yield case("openssl, MGF1 with SHA-1", seller.openssl(claims(), mgf="sha1"))
    yield case("cryptography, MGF1 with SHA-512", seller.raw(compact(HEADER), compact(claims()), mgf=hashes.SHA512))
    pkcs1 = seller.key.sign(f"{header}.{payload}".encode(), padding.PKCS1v15(), hashes.SHA256())
    yield case("PKCS#1 v1.5 under a header that says PS256", f"{header}.{payload}.{b64u(pkcs1)}")

    for alg in ("RS256", "RS384", "RS512", "PS384", "PS512"):
        yield case(f"a good {alg}", seller.pyjwt(claims(), alg), "AlgorithmNotAllowed")
    for alg in ("none", "None", "ps256", "PS256 ", "", "HS256", "ES256", "EdDSA"):
        false = b64u(compact({"alg": alg, "typ": "JWT"}).encode())
        yield case(f"alg {alg!r} over PS256", f"{false}.{payload}.{signature}", "AlgorithmNotAllowed")
        if alg in ("none", "None"):
            yield case(f"alg {alg!r} without a signature", f"{false}.{payload}.", "TokenMalformed")
    for secret in (public, public.strip(), seller.key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )):
        false = f"{b64u(compact({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{payload}"
        tag = hmac.new(secret, false.encode(), hashlib.sha256).digest()
        yield case("HS256 with the public key as secret", f"{false}.{b64u(tag)}", "AlgorithmNotAllowed")


def forged_forms(seller: Signer) -> Iterator[Case]:
    token = seller.pyjwt(claims())
    header, payload, signature = token.split(".")
    # Two parameters that leave spare bits in the last character of the header.
    spare = seller.raw(compact(HEADER) + " ", compact(claims()))
    end = spare.index(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    stray = spare[: end - 1] + alphabet[alphabet.index(spare[end - 1]) + 1] + spare[end:]
    standard = f"{header}.{payload}.+/{signature[2:]}"
    for name, form in {
        "empty": "",
        "two parts": f"{header}.{payload}",
        "four parts": f"{token}.{signature}",
        "five parts, as JWE": f"{token}.{payload}.{signature}",
        "an empty payload": f"{header}..{signature}",
        "padding on the header": f"{header}=.{payload}.{signature}",
        "padding on the signature": f"{token}=",
        "standard base64": standard,
        "stray trailing bits": stray,
        "a space before": f" {token}",
        "a space after": f"{token} ",
        "a line end within": f"{header}.\n{payload}.{signature}",
        "two line ends after": f"{token}\n\n",
        "a NUL after": f"{token}\0",
        "Bearer": f"Bearer {token}",
        "JSON serialisation": compact({"protected": header, "payload": payload, "signature": signature}),
        "no text": b"\xff\xfe" + token.encode(),
        "a BOM": "\ufeff" + token,
    }.items():
        yield Case(name, form, "TokenMalformed", seller.public)
    yield Case("8 KiB and one", "x" * 8193, "TokenTooLong", seller.public)
    yield Case("megabytes", "x" * (8 << 20), "TokenTooLong", seller.public)
    yield Case("a good token of 9 KiB", seller.claims(claims(filler="x" * 7000)), "TokenTooLong", seller.public)


def forged_headers(seller: Signer) -> Iterator[Case]:
    for text, reason in {
        '{"alg":"PS256","crit":["exp"],"exp":1}': "ExtensionNotAllowed",
        '{"alg":"PS256","crit":[]}': "ExtensionNotAllowed",
        '{"alg":"PS256","b64":true}': "ExtensionNotAllowed",
        '{"alg":"PS256","b64":false,"crit":["b64"]}': "ExtensionNotAllowed",
        '{"alg":"PS256","typ":"jwt"}': "TypeNotAllowed",
        '{"alg":"PS256","typ":"at+jwt"}': "TypeNotAllowed",
        '{"alg":"PS256","typ":null}': "TypeNotAllowed",
        '{"typ":"JWT"}': "AlgorithmNotAllowed",
        '{"alg":["PS256"]}': "AlgorithmNotAllowed",
        '{"alg":"PS256","alg":"PS256"}': "HeaderInvalid",
        '{"alg":"none","\\u0061lg":"PS256"}': "HeaderInvalid",
        '{"alg":"PS256"': "HeaderInvalid",
        '["PS256"]': "HeaderInvalid",
        '\ufeff{"alg":"PS256"}': "HeaderInvalid",
        '{"alg":"PS256"}{}': "HeaderInvalid",
    }.items():
        yield Case(f"header {text}", seller.raw(text, compact(claims())), reason, seller.public)


def forged_claims(seller: Signer) -> Iterator[Case]:
    now = int(time.time())
    for name, payload, reason in [
        ("another product", claims(productCode="demometered"), "ProductCodeMismatch"),
        ("another nonce", claims(nonce=NONCE[::-1]), "NonceMismatch"),
        ("a nonce of other case", claims(nonce=NONCE.swapcase()), "NonceMismatch"),
        ("another version", claims(publicKeyVersion=2), "PublicKeyVersionMismatch"),
        ("the version as text", claims(publicKeyVersion="1"), "ClaimMissing"),
        ("the version as a float", claims(publicKeyVersion=1.0), "ClaimMissing"),
        ("the version as true", claims(publicKeyVersion=True), "ClaimMissing"),
        ("the version beyond 32 bits", claims(publicKeyVersion=2**32 + 1), "ClaimMissing"),
        ("a null product", claims(productCode=None), "ClaimMissing"),
        ("a null nonce", claims(nonce=None), "ClaimMissing"),
        ("a null version", claims(publicKeyVersion=None), "ClaimMissing"),
        ("a list of nonces", claims(nonce=[NONCE]), "ClaimMissing"),
        ("no product", without("productCode"), "ClaimMissing"),
        ("no nonce", without("nonce"), "ClaimMissing"),
        ("no version", without("publicKeyVersion"), "ClaimMissing"),
        ("both casings", claims(ProductCode=PRODUCT), "ClaimAmbiguous"),
        ("an odd casing beside", claims(PRODUCTCODE=PRODUCT), "ClaimAmbiguous"),
        ("an odd casing alone", without("nonce") | {"NONCE": NONCE}, "ClaimAmbiguous"),
        ("mixed casings", without("nonce") | {"Nonce": NONCE}, "ClaimAmbiguous"),
        ("the Kelvin sign for K", claims(**{"public\u212aeyVersion": 1}), "ClaimAmbiguous"),
        ("expired", claims(exp=now - 400), "TokenExpired"),
        ("not yet valid", claims(nbf=now + 400), "TokenNotYetValid"),
        ("exp as text", claims(exp=str(now + 60)), "TimeInvalid"),
        ("iat as text", claims(iat="now"), "TimeInvalid"),
        ("iat null", claims(iat=None), "TimeInvalid"),
    ]:
        yield Case(name, seller.claims(payload), reason, seller.public)

    text = compact(claims())
    for name, payload, reason in [
        ("the nonce twice", text[:-1] + f',"nonce":"{NONCE}"}}', "PayloadInvalid"),
        ("the nonce twice, once escaped", text[:-1] + f',"\\u006eonce":"{NONCE}"}}', "PayloadInvalid"),
        ("another claim twice", text[:-1] + ',"x":1,"x":1}', "PayloadInvalid"),
        ("the version as 1e0", text.replace('"publicKeyVersion":1', '"publicKeyVersion":1e0'), "ClaimMissing"),
        ("no JSON", "claims", "PayloadInvalid"),
        ("two values", text + text, "PayloadInvalid"),
        ("a list", f"[{text}]", "PayloadInvalid"),
        ("NaN", text[:-1] + ',"x":NaN}', "PayloadInvalid"),
        ("a BOM before", "\ufeff" + text, "PayloadInvalid"),
        ("no UTF-8", text.encode() + b"\xff", "PayloadInvalid"),
        ("UTF-16", text.encode("utf-16"), "PayloadInvalid"),
        ("thousands of brackets", "[" * 5000, "PayloadInvalid"),
    ]:
        yield Case(name, seller.raw(compact(HEADER), payload), reason, seller.public)


def wrong_keys(seller: Signer, folder: Path) -> Iterator[Case]:
    """Files that are no key of AWS's, made by other programs: exit code 78 for every token."""
    public = seller.key.public_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "witness")])
    moment = datetime(2026, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(moment)
        .not_valid_after(moment.replace(year=2036))
        .sign(seller.key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    encrypted = seller.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"witness"),
    )
    traditional = seller.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    small = rsa.generate_private_key(65537, 1024)
    good = seller.public.read_bytes()
    token = seller.pyjwt(claims())
    for label, content in {
        "private": pem_of(seller.key),
        "private-traditional": traditional,
        "private-encrypted": encrypted,
        "certificate": certificate,
        "pkcs1": public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1),
        "der": public.public_bytes(serialization.Encoding.DER, spki),
        "ssh": public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH),
        "ec": public_pem(ec.generate_private_key(ec.SECP256R1())),
        "rsa1024": public_pem(small),
        "twice": good * 2,
        "half": good[: len(good) // 2],
        "empty": b"",
    }.items():
        path = folder / f"wrong-{label}.pem"
        path.write_bytes(content)
        yield Case(f"key file: {label}", token, "PublicKeyUnusable", path, exit=78)
    yield Case("key file: absent", token, "PublicKeyUnusable", folder / "absent.pem", exit=78)


def pyjwt_agrees(cases: list[Case]) -> Iterator[tuple[str, list[str]]]:
    """PyJWT also accepts the tokens that tollgate accepts."""
    # tollgate's five minutes of leeway, and no check of `iat`, for which the design has only a
    # warning.
    options = {"verify_iat": False}
    for case in cases:
        token = case.token.strip() if isinstance(case.token, str) else case.token
        try:
            read = jwt.decode(token, case.key.read_bytes(), algorithms=["PS256"], leeway=300, options=options)
            problems = [] if NONCE in (read.get("nonce"), read.get("Nonce")) else ["another nonce"]
        except jwt.PyJWTError as error:
            problems = [f"PyJWT refuses what we take: {error}"]
        yield f"PyJWT on {case.name}", problems


def main(binary: str) -> int:
    generate: Callable[[int, int], rsa.RSAPrivateKey] = rsa.generate_private_key
    with tempfile.TemporaryDirectory(prefix="tollgate-witness-") as name:
        folder = Path(name)
        seller = Signer(generate(65537, 3072), folder, "rsa3072")
        others = [
            Signer(generate(3, 2048), folder, "rsa2048-e3"),
            Signer(generate(65537, 2056), folder, "rsa2056"),
            Signer(generate(65537, 2049), folder, "rsa2049"),
            Signer(generate(65537, 4096), folder, "rsa4096"),
        ]
        witness = Witness(binary)
        accepted = list(good([seller, *others]))
        refused = [
            *forged_signatures(seller, others[0]),
            *forged_forms(seller),
            *forged_headers(seller),
            *forged_claims(seller),
            Case("the answer to another version", seller.pyjwt(claims()), "PublicKeyVersionMismatch", seller.public, "2"),
        ]
        keys = list(wrong_keys(seller, folder))
        for case in [*accepted, *refused, *keys]:
            witness.run(case)
        for label, problems in pyjwt_agrees(accepted):
            witness.count(label, problems)
        print(
            f"tokens: {len(accepted)} good, {len(refused)} forged, {len(keys)} wrong key files; "
            f"PyJWT {jwt.__version__} agrees on the good"
        )
        print(f"{witness.passed} passed, {witness.failed} failed")
        return 1 if witness.failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: token_witness.py <path to the tollgate binary>")
    sys.exit(main(sys.argv[1]))
