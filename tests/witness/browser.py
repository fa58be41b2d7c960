"""Chromium for the witnesses that look at a page."""

import os
import shutil
import tempfile
import unittest

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait


class Browser(unittest.TestCase):
    """A test with a browser of its own."""

    def open(self, address):
        options = webdriver.ChromeOptions()
        profile = self.enterContext(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        for argument in (
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--window-size=1240,1400",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.browser = webdriver.Chrome(options=options, service=service)
        self.addCleanup(self.browser.quit)
        self.wait = WebDriverWait(self.browser, 20)
        self.browser.get(address)

    def screen(self, width, height, scheme="light"):
        command = self.browser.execute_cdp_cmd
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        command("Emulation.setDeviceMetricsOverride", metrics)
        command("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        self.wait.until(lambda b: b.execute_script("return innerWidth") == width)

    def picture(self, name):
        """Writes a picture of the page for the documents, if PICTURES is set."""
        if folder := os.environ.get("PICTURES"):
            self.assertTrue(self.browser.save_screenshot(os.path.join(folder, f"{name}.png")))
