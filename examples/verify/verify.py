"""Asks the sidecar for AWS's answer to its own nonce and verifies it. Needs PyJWT and cryptography.

Usage: verify.py http://127.0.0.1:19181 PUBLIC_KEY.pem PRODUCT_CODE
"""

import json
import secrets
import sys
import urllib.request

import jwt

url, key_file, product_code = sys.argv[1:]
nonce = secrets.token_urlsafe(32)
body = json.dumps({"nonce": nonce}).encode()
request = urllib.request.Request(f"{url}/v1/attestations", body, {"content-type": "application/json"})
token = json.load(urllib.request.urlopen(request))["token"]
# Build the key into the application; do not read it from a place that the buyer can change.
claims = jwt.decode(token, open(key_file).read(), algorithms=["PS256"])
if claims["nonce"] != nonce or claims["productCode"] != product_code:
    sys.exit("not entitled: the token answers another question")
print("entitled")
