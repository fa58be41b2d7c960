"""The program that a seller writes without tollgate: it asks AWS whether this pod may run, verifies the answer, and reports usage by the hour.

Usage: by_hand.py PRODUCT_CODE PUBLIC_KEY.pem COMMAND…   (needs boto3, PyJWT and cryptography)

It works while no call fails. README.md lists what it lacks, and tests/witness/by_hand.py shows each of these.
"""

import collections
import os
import secrets
import sys
import time

import boto3
import jwt

aws = boto3.client("meteringmarketplace")


def entitled(product_code, key_file):
    """Products with an hourly price: RegisterUsage, once in every pod."""
    nonce = secrets.token_urlsafe(32)
    try:
        answer = aws.register_usage(ProductCode=product_code, PublicKeyVersion=1, Nonce=nonce)
    except aws.exceptions.CustomerNotEntitledException:
        return False
    with open(key_file) as key:
        claims = jwt.decode(answer["Signature"], key.read(), algorithms=["PS256"])
    return claims["nonce"] == nonce and claims["productCode"] == product_code


class Usage:
    """Products with custom dimensions: MeterUsage, once for every hour and dimension."""

    def __init__(self, product_code):
        self.product_code, self.counts = product_code, collections.Counter()

    def add(self, dimension, quantity):
        self.counts[dimension] += quantity

    def report(self, hour):
        counts, self.counts = self.counts, collections.Counter()
        for dimension, quantity in counts.items():
            try:
                aws.meter_usage(ProductCode=self.product_code, Timestamp=hour, UsageDimension=dimension, UsageQuantity=quantity)
            except Exception:
                self.add(dimension, quantity)  # reported with the next hour

    def run(self):
        while True:
            time.sleep(3600 - time.time() % 3600)
            self.report(time.time() - 60)


if __name__ == "__main__":
    product_code, key_file, *command = sys.argv[1:]
    if not entitled(product_code, key_file):
        sys.exit("AWS Marketplace: this account has no subscription to the product")
    os.execvp(command[0], command)
