"""The emulator's page in a browser: its contents, its orders, and that axe-core finds no fault of accessibility.

Usage: page.py PROGRAM NODE_MODULES_FOLDER
With PICTURES set it writes the page's pictures, light and dark, into that folder.
"""

import os
import struct
import sys
import unittest
import zlib

import boto3
import botocore.config
import botocore.exceptions
from selenium.webdriver.common.by import By

from browser import Browser
from processes import Emulator

FOLDER = sys.argv.pop(2)
PROGRAM = sys.argv.pop(1)
TIME = "2026-11-24T08:30:00Z"
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6c2hvcDphcHAifQ.c2ln"


class Page(Browser):
    def setUp(self):
        self.emulator = self.enterContext(Emulator(PROGRAM))
        self.emulator.admin("clock", {"now": TIME})
        self.open(self.emulator.endpoint + "/")

    def client(self, pod, service="meteringmarketplace"):
        config = botocore.config.Config(retries={"total_max_attempts": 1})
        return boto3.client(
            service, endpoint_url=self.emulator.endpoint, region_name="us-east-1", aws_access_key_id=pod,
            aws_secret_access_key="any", config=config,
        )

    def meter(self, hour, dimension, quantity):
        self.client("cli-pod").meter_usage(
            ProductCode="demometered", Timestamp=f"2026-11-24T{hour:02}:30:00Z", UsageDimension=dimension,
            UsageQuantity=quantity,
        )

    def take(self, pod, entitlements):
        return self.client(pod, "license-manager").checkout_license(
            ProductSKU="prod-democontract", CheckoutType="PROVISIONAL", ClientToken=pod, Entitlements=entitlements,
            KeyFingerprint="aws:294406891311:AWS/Marketplace:issuer-fingerprint",
        )

    def refuse(self, pod):
        self.emulator.admin("pods", {"access_key": pod, "account_id": "444455556666"})
        with self.assertRaises(botocore.exceptions.ClientError):
            self.client(pod).register_usage(ProductCode="demohourly", PublicKeyVersion=1)

    def text(self, name):
        return self.browser.find_element(By.ID, name).text

    def press(self, section, text):
        for button in self.browser.find_elements(By.CSS_SELECTOR, f"#{section} button"):
            if button.text == text:
                return button.click()
        raise AssertionError(f"no button {text!r} in {section}")

    def tiles(self):
        return [self.text(f"count-{name}") for name in ("calls", "refused", "pods", "records", "faults")]

    def pictures(self, name):
        for scheme in ("light", "dark"):
            self.screen(1240, 1000, scheme)
            self.picture(f"{name}-{scheme}")

    def test_it_shows_what_happens_and_takes_orders(self):
        browser, wait = self.browser, self.wait
        wait.until(lambda b: "2026-11-24" in b.find_element(By.ID, "now").text)
        self.assertIn("no call yet", browser.find_element(By.ID, "calls").text)
        self.assertIn(self.emulator.endpoint, browser.find_element(By.ID, "start").text)

        hour = 8
        for _ in range(5):
            for dimension in ("requests", "gigabytes"):
                self.meter(hour, dimension, hour)
            self.emulator.admin("clock", {"advance": "1h"})
            hour += 1
        wait.until(lambda b: len(b.find_elements(By.CSS_SELECTOR, "#chart .bar")) == 10)
        self.assertFalse(browser.find_element(By.ID, "start").is_displayed())
        self.assertIn("demometered", browser.find_element(By.ID, "totals").text)
        self.assertIn("largest hour 12", browser.find_element(By.ID, "chart").text)
        self.assertIn("cli-pod", browser.find_element(By.ID, "calls").text)
        self.assertIn("cli-pod 111122223333 eks, us-east-1", browser.find_element(By.ID, "pods").text)
        self.assertIn("demosaas", browser.find_element(By.ID, "products").text)
        browser.execute_script("document.querySelector('#calls tr[data-number]').click()")
        wait.until(lambda b: '"MeteringRecordId"' in b.find_element(By.ID, "call").text)

        browser.find_element(By.CSS_SELECTOR, "[data-advance='1h']").click()
        wait.until(lambda b: "14:30" in b.find_element(By.ID, "now").text)
        buttons = browser.find_elements(By.CSS_SELECTOR, "[data-fault]")
        next(button for button in buttons if button.text == "Not entitled").click()
        wait.until(lambda b: "CustomerNotEntitledException" in b.find_element(By.ID, "rules").text)
        self.assertEqual(len(self.emulator.admin("faults")["rules"]), 1)
        self.assertEqual(self.tiles(), ["10", "0", "1", "10", "1"])
        browser.find_element(By.ID, "calm").click()
        wait.until(lambda b: "no faults" in b.find_element(By.ID, "rules").text)
        self.assertEqual(browser.find_element(By.ID, "problem").text, "")

        # Both colours of the chart are really drawn.
        colours = pixels(browser.get_screenshot_as_png())
        for colour in ((217, 72, 15), (25, 113, 194)):
            self.assertGreater(colours.get(colour, 0), 500, f"{colour} is not on the picture")
        self.pictures("emulator")
        # On a telephone no element is wider than the screen.
        self.screen(400, 800)
        self.assertLessEqual(browser.execute_script("return document.documentElement.scrollWidth"), 400)

        # The page answers an open question the other way, and the emulator has the new answer.
        browser.execute_script(
            "document.querySelector('details').open = true; const s = document.querySelector('[aria-label=dry_run]');"
            "s.value = 'exception'; s.dispatchEvent(new Event('change'))"
        )
        wait.until(lambda b: self.emulator.admin("switches")["dry_run"]["answer"] == "exception")
        self.assertEqual(browser.get_log("browser"), [])

    def test_refusals_look_refused_and_calls_are_found(self):
        browser, wait = self.browser, self.wait
        self.meter(8, "requests", 1)
        self.refuse("refused-pod")
        role = "arn:aws:iam::111122223333:role/shop/app"
        self.client("x", "sts").assume_role_with_web_identity(
            RoleArn=role, RoleSessionName="irsa-pod", WebIdentityToken=TOKEN
        )
        wait.until(lambda b: "CustomerNotEntitledException" in self.text("pods"))
        mark = browser.find_element(By.CSS_SELECTOR, "#pods .mark.bad")
        self.assertEqual(mark.text, "CustomerNotEntitledException")
        self.assertIn("irsa-pod 111122223333, shop/app", self.text("pods"))
        self.assertIn("STS accepts every well-formed web identity token", self.text("tokens"))
        self.assertEqual(self.tiles()[:3], ["3", "1", "3"])

        def found():
            cells = "return [...document.querySelectorAll('#calls tr[data-number]')].map(row => row.cells[2].textContent)"
            return browser.execute_script(cells)

        self.assertEqual(found(), ["AssumeRoleWithWebIdentity", "RegisterUsage", "MeterUsage"])
        search = browser.find_element(By.ID, "filter")
        for text, operations in [("role/shop", ["AssumeRoleWithWebIdentity"]), ("cli-pod meter", ["MeterUsage"]), ("nothing", [])]:
            search.clear()
            search.send_keys(text)
            self.assertEqual(found(), operations, text)
        self.assertIn("no call fits", self.text("calls"))
        search.clear()
        search.send_keys(" ")
        browser.find_element(By.ID, "bad").click()
        self.assertEqual(found(), ["RegisterUsage"])
        # Details are shown beside the list, also by the keyboard, and stay when the call is filtered
        # out.
        row = browser.find_element(By.CSS_SELECTOR, "#calls tr[data-number]")
        row.send_keys("\n")
        wait.until(lambda b: "CustomerNotEntitledException" in self.text("call"))
        listed, details = (browser.find_element(By.CSS_SELECTOR, s).rect for s in (".split > .scroll", "#call"))
        self.assertGreater(details["x"], listed["x"] + listed["width"] - 1)
        self.assertLess(abs(details["y"] - listed["y"]), 2)

    def test_a_key_is_rotated_a_token_issued_and_a_reset_resets(self):
        browser, wait = self.browser, self.wait
        self.refuse("refused-pod")
        wait.until(lambda b: self.tiles()[:3] == ["1", "1", "1"])
        self.press("products", "Rotate key")
        wait.until(lambda b: "key 1 (rotated), 2" in self.text("products"))
        products = {product["product_code"]: product for product in self.emulator.admin("world")["products"]}
        self.assertEqual(products["demohourly"]["public_key_versions"], [1, 2])
        self.press("customers", "Token")
        wait.until(lambda b: "for demosaas" in self.text("issued"))
        token = browser.find_element(By.CSS_SELECTOR, "#issued code").text
        answer = self.client("saas").resolve_customer(RegistrationToken=token)
        self.assertEqual(answer["CustomerAWSAccountId"], "111122223333")
        # An exception of STS, chosen from the emulator's own list.
        browser.execute_script(
            "const o = document.getElementById('operation'); o.value = 'AssumeRoleWithWebIdentity'; o.onchange();"
            "document.getElementById('exception').value = 'IDPRejectedClaim'"
        )
        browser.find_element(By.ID, "raise").click()
        wait.until(lambda b: "IDPRejectedClaim" in self.text("rules"))
        browser.execute_script("document.querySelector('#calls tr[data-number]').click()")
        wait.until(lambda b: self.text("call") and self.tiles()[4] == "1")

        browser.find_element(By.ID, "reset").click()
        browser.switch_to.alert.accept()
        wait.until(lambda b: self.tiles() == ["0", "0", "0", "0", "0"])
        self.assertEqual((self.text("call"), self.text("issued")), ("", ""))
        self.client("pod").register_usage(ProductCode="demohourly", PublicKeyVersion=1)
        wait.until(lambda b: self.tiles()[:3] == ["1", "0", "1"])
        self.assertEqual(self.emulator.admin("calls")["calls"][0]["number"], 1)

    def test_it_shows_seats_and_who_holds_them(self):
        wait = self.wait
        wait.until(lambda b: "users: 0 of 10" in self.text("licenses"))
        self.assertIn("nobody holds a seat", self.text("seats"))
        users = [{"Name": "users", "Unit": "Count", "Value": "4"}]
        token = self.take("seat-1", users)["LicenseConsumptionToken"]
        self.take("seat-2", [*users, {"Name": "premium", "Unit": "None"}])
        wait.until(lambda b: "users: 8 of 10" in self.text("licenses"))
        wait.until(lambda b: "seat-2 premium" in self.text("seats"))
        self.assertIn("seat-1 4 users prod-democontract 08:30:", self.text("seats"))
        self.assertEqual(self.text("count-seats"), "8")
        self.assertIn("prod-democontract: 4 users, premium", self.text("calls"))
        self.client("seat-1", "license-manager").check_in_license(LicenseConsumptionToken=token)
        wait.until(lambda b: "users: 4 of 10" in self.text("licenses"))
        self.assertIn("Most that were held at once: 8 users", self.text("licenses-note"))
        self.press("licenses", "Disable")
        wait.until(lambda b: "not activated" in self.text("licenses"))
        with self.assertRaises(botocore.exceptions.ClientError):
            self.take("seat-3", users)
        self.press("licenses", "Activate")
        wait.until(lambda b: "in use" in self.text("licenses"))
        self.emulator.admin("clock", {"advance": "1h"})
        wait.until(lambda b: "ended by themselves 1" in self.text("seats-note"))
        self.assertEqual(self.text("count-seats"), "0")

    def test_axe_finds_no_violation(self):
        with open(os.path.join(FOLDER, "node_modules/axe-core/axe.min.js")) as file:
            axe = file.read()
        self.browser.execute_script(axe)
        analyse = "axe.run(document).then(arguments[0], error => arguments[0]({ error: String(error) }))"
        for filled in (False, True):
            if filled:
                self.meter(8, "requests", 1)
                self.refuse("refused-pod")
                self.take("seat-1", [{"Name": "users", "Unit": "Count", "Value": "4"}])
                self.emulator.admin("faults", {"fault": "throttle"})
                self.wait.until(lambda b: "seat-1" in self.text("seats"))
                self.wait.until(lambda b: "throttle" in self.text("rules") and "refused-pod" in self.text("pods"))
                self.press("customers", "Token")
                self.wait.until(lambda b: self.text("issued"))
                self.browser.execute_script(
                    "document.querySelector('details').open = true; document.querySelector('#calls tr[data-number]').click()"
                )
            for scheme in ("light", "dark"):
                for width in (1240, 400):
                    self.screen(width, 1400, scheme)
                    result = self.browser.execute_async_script(analyse)
                    self.assertGreater(len(result["passes"]), 20, result.get("error"))
                    found = [(v["id"], [node["html"] for node in v["nodes"]]) for v in result["violations"]]
                    self.assertEqual(found, [], (filled, scheme, width))
        # axe-core must find this fault.
        self.browser.execute_script("document.body.append(document.createElement('button'))")
        ids = [violation["id"] for violation in self.browser.execute_async_script(analyse)["violations"]]
        self.assertIn("button-name", ids)


def pixels(png):
    """How often each colour occurs in a PNG of 8-bit RGB or RGBA (PNG specification, sections 4 and 9)."""
    at, data, width, channels = 8, b"", 0, 0
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, _, depth, colour = struct.unpack(">IIBB", body[:10])
            channels = {2: 3, 6: 4}[colour]
            assert depth == 8
        if kind == b"IDAT":
            data += body
        at += 12 + length
    raw, line = zlib.decompress(data), width * channels
    before, counts = bytearray(line), {}
    for start in range(0, len(raw), line + 1):
        kind, row = raw[start], bytearray(raw[start + 1 : start + 1 + line])
        for i in range(line):
            left = row[i - channels] if i >= channels else 0
            up, corner = before[i], before[i - channels] if i >= channels else 0
            if kind == 4:
                guess = left + up - corner
                nearest = min((left, up, corner), key=lambda c: (abs(guess - c), (left, up, corner).index(c)))
            else:
                nearest = (0, left, up, (left + up) // 2)[kind]
            row[i] = (row[i] + nearest) & 255
        for i in range(0, line, channels):
            colour = tuple(row[i : i + 3])
            counts[colour] = counts.get(colour, 0) + 1
        before = row
    return counts


if __name__ == "__main__":
    unittest.main(verbosity=2)
