"""Programs that we did not write, as they are: the AWS CLI, the AWS SDK for JavaScript, moto, and a browser.

Usage: clients.py PROGRAM NODE_MODULES_FOLDER
"""

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request
import zlib

import boto3
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from processes import Emulator

FOLDER = sys.argv.pop(2)
PROGRAM = sys.argv.pop(1)
TIME = "2026-11-24T08:30:00Z"


class Clients(unittest.TestCase):
    def setUp(self):
        self.emulator = self.enterContext(Emulator(PROGRAM))
        self.emulator.admin("clock", {"now": TIME})

    def token(self):
        order = {"account_id": "111122223333", "product_code": "demosaas"}
        return self.emulator.admin("tokens", order)["token"]

    def cli(self, *arguments):
        environment = {
            "PATH": os.environ["PATH"],
            "AWS_ENDPOINT_URL_MARKETPLACE_METERING": self.emulator.endpoint,
            "AWS_ACCESS_KEY_ID": "cli-pod",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_PAGER": "",
        }
        program = os.path.join(os.path.dirname(sys.executable), "aws")
        done = subprocess.run([program, "meteringmarketplace", *arguments], env=environment, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_the_aws_cli_with_one_environment_variable(self):
        answer = self.cli("register-usage", "--product-code", "demohourly", "--public-key-version", "1")
        self.assertEqual(answer["Signature"].count("."), 2)
        answer = self.cli(
            "meter-usage", "--product-code", "demometered", "--timestamp", TIME, "--usage-dimension", "requests",
            "--usage-quantity", "3",
        )
        self.assertTrue(answer["MeteringRecordId"])
        record = f"Timestamp={TIME},CustomerIdentifier=customer-111122223333,Dimension=requests,Quantity=4"
        answer = self.cli("batch-meter-usage", "--product-code", "demosaas", "--usage-records", record)
        self.assertEqual(answer["Results"][0]["Status"], "Success")
        answer = self.cli("resolve-customer", "--registration-token", self.token())
        self.assertEqual(answer["CustomerAWSAccountId"], "111122223333")

    def test_the_aws_sdk_for_javascript(self):
        script = os.path.join(FOLDER, "calls.mjs")
        shutil.copy(os.path.join(os.path.dirname(__file__), "calls.mjs"), script)
        command = ["node", script, self.emulator.endpoint, self.token(), TIME]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(done.stdout)
        self.assertEqual((answer["parts"], answer["statuses"], answer["unprocessed"]), (3, ["Success"], 0))
        self.assertEqual(answer["account"], "111122223333")
        self.assertTrue(answer["record"])

    def test_moto_answers_a_batch_in_the_same_shape(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        server = os.path.join(os.path.dirname(sys.executable), "moto_server")
        moto = subprocess.Popen([server, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(moto.wait)
        self.addCleanup(moto.terminate)
        endpoint = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(endpoint + "/moto-api/").close()
                break
            except OSError:
                self.assertLess(time.monotonic(), until, "moto did not start")
                time.sleep(0.05)
        request = {
            "ProductCode": "demosaas",
            "UsageRecords": [
                {"Timestamp": TIME, "CustomerIdentifier": "customer-111122223333", "Dimension": "requests", "Quantity": 4}
            ],
        }

        def answer(endpoint):
            client = boto3.client(
                "meteringmarketplace", endpoint_url=endpoint, region_name="us-east-1",
                aws_access_key_id="moto", aws_secret_access_key="any",
            )
            answer = client.batch_meter_usage(**request)
            del answer["ResponseMetadata"]
            return answer

        def shape(value):
            if isinstance(value, dict):
                return {key: shape(item) for key, item in value.items()}
            return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__

        ours, theirs = answer(self.emulator.endpoint), answer(endpoint)
        self.assertEqual(shape(ours), shape(theirs))

    def test_the_page_in_a_browser(self):
        options = webdriver.ChromeOptions()
        profile = self.enterContext(tempfile.TemporaryDirectory())
        for argument in (
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1240,1400",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        browser = webdriver.Chrome(options=options, service=service)
        self.addCleanup(browser.quit)
        browser.get(self.emulator.endpoint + "/")
        wait = WebDriverWait(browser, 20)
        wait.until(lambda b: "2026-11-24" in b.find_element(By.ID, "now").text)
        self.assertIn("no call yet", browser.find_element(By.ID, "calls").text)
        self.assertIn(self.emulator.endpoint, browser.find_element(By.ID, "start").text)

        hour = 8
        for _ in range(5):
            for dimension in ("requests", "gigabytes"):
                self.cli(
                    "meter-usage", "--product-code", "demometered", "--timestamp", f"2026-11-24T{hour:02}:30:00Z",
                    "--usage-dimension", dimension, "--usage-quantity", str(hour),
                )
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
        tiles = [browser.find_element(By.ID, f"count-{name}").text for name in ("calls", "refused", "pods", "records")]
        self.assertEqual(tiles, ["10", "0", "1", "10"])
        browser.find_element(By.ID, "calm").click()
        wait.until(lambda b: "no faults" in b.find_element(By.ID, "rules").text)
        self.assertEqual(browser.find_element(By.ID, "problem").text, "")

        # Both colours of the chart are really drawn.
        colours = pixels(browser.get_screenshot_as_png())
        for colour in ((217, 72, 15), (25, 113, 194)):
            self.assertGreater(colours.get(colour, 0), 500, f"{colour} is not on the picture")
        # On a telephone nothing is wider than the screen.
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        )
        wait.until(lambda b: b.execute_script("return document.documentElement.clientWidth") == 400)
        self.assertLessEqual(browser.execute_script("return document.documentElement.scrollWidth"), 400)

        # An open question is answered the other way; the emulator knows it.
        browser.execute_script(
            "document.querySelector('details').open = true; const s = document.querySelector('[aria-label=dry_run]');"
            "s.value = 'exception'; s.dispatchEvent(new Event('change'))"
        )
        wait.until(lambda b: self.emulator.admin("switches")["dry_run"]["answer"] == "exception")
        self.assertEqual(browser.get_log("browser"), [])


def pixels(png):
    """How often each colour stands in a PNG of 8-bit RGB or RGBA (PNG specification, sections 4 and 9)."""
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
